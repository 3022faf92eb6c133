"""`doctor` names another distribution that shadows one of our generic package names."""

from importlib import metadata

import pytest
from click.testing import CliRunner

from cli.doctor import find_shadows
from cli.main import root


def test_a_sound_installation_is_reported_as_such() -> None:
    result = CliRunner().invoke(root, ["doctor"])
    assert result.exit_code == 0, result.output
    assert f"stal {metadata.version('stal')}" in result.output
    assert "torch" in result.output


def test_a_foreign_package_of_the_same_name_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "packages_distributions", lambda: {"cache": ["stal", "diskcache2"], "cli": ["stal"]})
    assert find_shadows() == [
        "the import package 'cache' is also provided by diskcache2: uninstall it, or use a virtual environment of "
        "stal's own"
    ]
