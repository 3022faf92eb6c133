"""The notebooks run from the first cell to the last, and their results are worth showing."""

import json
import tempfile
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"


def test_a_head_of_ones_own_learns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    names: dict[str, object] = {}
    for cell in json.loads((NOTEBOOKS / "own_head.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    assert names["result"].mean_ap > 0.9
    assert names["linear"].mean_ap > 0.9
