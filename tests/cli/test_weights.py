"""`stal-cli weights`: the files, the tables and the errors a user sees."""

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

from cache.backbones.weights import METADATA_KEY
from cli.commands.weights import weights
from cli.main import root
from recognizer_svc.training.head_file import load_head_file
from stal_data.errors import InputError
from tests.recognizer.tiny_checkpoint import tiny_state, write_checkpoint

SIZES = ["--slowfast-preset", "tiny", "--vit-preset", "tiny"]


def test_a_whole_checkpoint_becomes_three_files_and_a_table(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "ckpt_12.pth.tar")
    out = tmp_path / "weights"
    result = CliRunner().invoke(
        root, ["weights", "import", str(checkpoint), "--kind", "full", "--output", str(out), *SIZES]
    )
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == [
        "head.safetensors",
        "slowfast.safetensors",
        "vit.safetensors",
    ]
    text = " ".join(result.stdout.split())
    for expected in ("behind the encoder's last block", "fc_norm.weight", "optimizer", "Trained for 12 epochs"):
        assert expected in text
    assert "reading ckpt_12.pth.tar" in result.stderr
    info, _ = load_head_file(out / "head.safetensors")
    assert info.provenance["imported_from"] == "ckpt_12.pth.tar"


def test_info_describes_ours_and_foreign_files(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "c.pth.tar")
    CliRunner().invoke(weights, ["import", str(checkpoint), "--kind", "full", "--output", str(tmp_path), *SIZES])
    for name, facts in {
        "head.safetensors": ("acar head", "reduce_channels 16", "trained on vit", "c.pth.tar"),
        "vit.safetensors": ("vit backbone", "tiny", "float32"),
        "c.pth.tar": ("pickled checkpoint", "state_dict", "12", "backbone"),
    }.items():
        result = CliRunner().invoke(weights, ["info", str(tmp_path / name)])
        assert result.exit_code == 0, result.output
        assert all(fact in result.stdout for fact in facts), result.stdout


@pytest.mark.parametrize("metadata", ["{}", "[]", "no JSON", '{"kind": "vit", "preset": "tiny", "provenance": 3}'])
def test_info_on_damaged_metadata_is_an_error_of_ours(tmp_path, metadata):
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors", metadata={METADATA_KEY: metadata})
    result = CliRunner().invoke(weights, ["info", str(tmp_path / "a.safetensors")])
    assert isinstance(result.exception, InputError), result.exception
    assert f"'{METADATA_KEY}' is damaged" in str(result.exception)


def test_what_is_missing_is_an_error_without_files(tmp_path):
    state = tiny_state()
    del state["head.module.fc1.weight"]
    torch.save({"state_dict": state}, tmp_path / "c.pth")
    result = CliRunner().invoke(
        weights, ["import", str(tmp_path / "c.pth"), "--kind", "full", "--output", str(tmp_path / "out"), *SIZES]
    )
    assert isinstance(result.exception, InputError)
    assert "1 missing: fc1.weight" in str(result.exception)
    assert not (tmp_path / "out").exists()
