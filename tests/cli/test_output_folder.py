"""Output folders of `infer` and `demo`: only new, empty or own ones are touched."""

from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from cli.main import root
from cli.workflow.output_folder import claimed
from stal_data.errors import ConflictError


def words(command: str, folder: Path, output: Path) -> list[str]:
    """A call that would work, were it not for the folder."""
    if command == "demo":
        return ["demo", "--tiny", "--output", str(output)]
    (folder / "runs" / "first").mkdir(parents=True)
    (folder / "runs" / "first" / "label_map.pbtxt").write_text('label { name: "walk" label_id: 1 }\n')
    files = ["street.mp4", "person.pt", "slowfast.safetensors", "vit.safetensors"]
    video, detector, slowfast, vit = (str(folder / name) for name in files)
    for file in (video, detector):
        Path(file).touch()
    options = ["--run", "first", "--slowfast", slowfast, "--vit", vit, "--detector-weights", detector]
    return ["infer", video, "--store", str(folder), *options, "--output", str(output)]


@pytest.mark.parametrize("command", ["demo", "infer"])
@pytest.mark.parametrize("own", ["data/mine", "dataset/mine", "store/proposals/mine", "weights/mine", ".git/HEAD"])
def test_a_folder_with_files_of_the_users_own_is_refused(tmp_path: Path, command: str, own: str) -> None:
    mine = tmp_path / "out" / own
    mine.parent.mkdir(parents=True)
    mine.write_text("my own work")
    result = CliRunner().invoke(root, words(command, tmp_path / "store", tmp_path / "out"))
    assert isinstance(result.exception, ConflictError)
    assert f"holds {own.partition('/')[0]}, but no mark of {command}" in str(result.exception)
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [mine]


def test_a_folder_is_the_same_commands_again_however_it_ended(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with suppress(KeyboardInterrupt), claimed(output, "infer"):
        (output / "dataset").mkdir()
        raise KeyboardInterrupt
    with claimed(output, "infer"):
        pass
    with pytest.raises(ConflictError, match="that of another command"), claimed(output, "demo"):
        pass


def test_a_folder_is_used_by_one_command_at_a_time(tmp_path: Path) -> None:
    with (
        claimed(tmp_path, "infer"),
        pytest.raises(ConflictError, match="Another infer is at work in the output folder"),
        claimed(tmp_path, "infer"),
    ):
        pass
