"""The container files call commands and options that exist; Docker itself is not needed to know that."""

import json
import re
from pathlib import Path

import click
import pytest
import yaml

from cli.main import root

DEPLOY = Path(__file__).parents[2] / "deploy"


def _instruction(dockerfile: str, name: str) -> list[str]:
    joined = re.sub(r"\\\n\s*", " ", (DEPLOY / dockerfile).read_text())
    (value,) = re.findall(rf"^{name} (\[.*\])$", joined, re.MULTILINE)
    words: list[str] = json.loads(value)
    return words


@pytest.mark.parametrize("dockerfile", ["detector.Dockerfile", "recognizer.Dockerfile", "precompute.Dockerfile"])
def test_the_image_starts_a_command_with_known_options(dockerfile: str) -> None:
    program, *words = _instruction(dockerfile, "ENTRYPOINT")
    assert program == "stal-cli"
    command: click.Command | None = root
    context = click.Context(root)
    for word in words:
        assert isinstance(command, click.Group)
        command = command.get_command(context, word)
    assert command is not None
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    given = {word for word in _instruction(dockerfile, "CMD") if word.startswith("--")}
    assert given <= known


def test_compose_builds_both_images_and_publishes_on_loopback_only() -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert set(services) == {"detector", "recognizer"}
    for service in services.values():
        assert (DEPLOY.parent / service["build"]["dockerfile"]).is_file()
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


@pytest.mark.parametrize("name", ["detector", "recognizer"])
def test_published_ports_are_the_ones_the_image_exposes(name: str) -> None:
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    exposed = re.findall(r"^EXPOSE (.*)$", (DEPLOY / f"{name}.Dockerfile").read_text(), re.MULTILINE)[0].split()
    assert [port.rsplit(":", 1)[-1] for port in services[name]["ports"]] == exposed
