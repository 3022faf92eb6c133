"""COCO's results and MOT's text become proposals at the key frames that their frames are nearest to."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cache.proposal_store import open_proposals
from cache.store import Store
from cli.commands.detect import detect
from stal_data.keyframes import KeyFrame
from tests.data.folders import write_small_dataset

BOXES = {(1, (8, 12, 32, 24), 0.75), (1, (40, 0, 20, 48), 0.5), (2, (-8, 24, 16, 48), 0.25)}
"""Second, box x,y,width,height in pixels of 80x48, confidence; the last is cut at the edge."""

TRACK_OF = {0.75: 7, 0.5: 2, 0.25: 7}
"""By confidence."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_small_dataset(tmp_path / "data")


def _import(file: Path, data: Path, *words: str | Path) -> Result:
    where = ("--split", "test", "--store", data.parent / "store", "--name", "other")
    return CliRunner().invoke(detect, [str(word) for word in (data, *where, "--import", file, *words)])


def _write_mot(path: Path, *, frames_of: int = 25) -> Path:
    path.parent.mkdir(exist_ok=True)
    lines = [
        f"{frames_of * second + 1},{TRACK_OF[c]},{','.join(map(str, box))},{c},-1,-1,-1"
        for second, box, c in sorted(BOXES)
    ]
    path.write_text("\n".join([*lines, "30,7,0,0,5,5,1,-1,-1,-1"]) + "\n")
    return path


def _write_coco(folder: Path, *, by_name: bool, scale: int = 1) -> tuple[Path, list[Path | str]]:
    names = {second: f"b/b_{25 * second + 1:06d}.png" for second in (1, 2)}
    results = [
        {
            "image_id": names[second] if by_name else second,
            "category_id": 1,
            "bbox": [scale * side for side in box],
            "score": c,
            "track_id": TRACK_OF[c],
        }
        for second, box, c in BOXES
    ]
    car = {"image_id": "x" if by_name else 1, "category_id": 3, "bbox": [0, 0, 1, 1], "score": 1}
    other = {"image_id": "b/b_000030.png" if by_name else 30, "category_id": 1, "bbox": [0, 0, 5, 5], "score": 1}
    file, images = folder / "results.json", folder / "images.json"
    file.write_text(json.dumps([*results, car, other]))
    size = {"width": 80 * scale, "height": 48 * scale}
    entries = [{"id": number, "file_name": name, **size} for number, name in {**names, 30: "b_000030.png"}.items()]
    images.write_text(json.dumps({"images": entries}))
    return file, [] if by_name else ["--images", images]


@pytest.mark.parametrize("form", ["mot", "mot folder", "coco by name", "coco by id", "coco of larger images"])
def test_boxes_on_frames_become_those_of_key_frames(form: str, data: Path, tmp_path: Path) -> None:
    words: list[Path | str] = []
    if form.startswith("mot"):
        file = _write_mot(tmp_path / "mot" / "b.txt")
        file = file.parent if "folder" in form else file
    else:
        file, words = _write_coco(tmp_path, by_name="name" in form, scale=2 if "larger" in form else 1)
    done = _import(file, data, *words)
    assert done.exit_code == 0, f"{done.output} {done.exception}"
    assert "1 box left out: on frames of no key frame" in done.stderr
    found = open_proposals(Store.open(tmp_path / "store"), "small", "test", "other")
    assert {
        (key.time_ms // 1000, tuple(box.tolist()), float(score))
        for key in found.key_frames
        for box, score in zip(*found.of(key), strict=True)
    } == {
        (second, tuple(np.float32([x / 80, y / 48, (x + w) / 80, (y + h) / 48]).clip(0, 1).tolist()), c)
        for second, (x, y, w, h), c in BOXES
    }
    assert found.tracks is not None
    assert [TRACK_OF[score] for score in found.scores_N.tolist()] == found.tracks.ids_N.tolist()
    assert "The track ids of the boxes are kept" in done.stdout


@pytest.mark.parametrize(("ids", "kept"), [((0, 4), [1, 5]), ((3, -1), [3, -1]), ((-1, -1), None)])
def test_track_ids_begin_at_1_and_may_be_unknown(
    ids: tuple[int, int], kept: list[int] | None, data: Path, tmp_path: Path
) -> None:
    lines = [f"26,{track},{8 * place},0,8,8,1,-1,-1" for place, track in enumerate(ids)]
    (tmp_path / "b.txt").write_text("\n".join(lines))
    assert _import(tmp_path / "b.txt", data).exit_code == 0
    found = open_proposals(Store.open(tmp_path / "store"), "small", "test", "other")
    assert (None if found.tracks is None else found.tracks.ids_N.tolist()) == kept


def test_several_files_become_one_set_of_proposals(data: Path, tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("26,1,0,0,8,8,1,-1,-1\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "b.txt").write_text("51,1,0,0,8,8,0.5,-1,-1\n")
    assert _import(tmp_path / "b.txt", data, "--import", tmp_path / "more" / "b.txt").exit_code == 0
    found = open_proposals(Store.open(tmp_path / "store"), "small", "test", "other")
    assert found.scores_N.tolist() == [1, 0.5]
    report = json.loads(
        (Store.open(tmp_path / "store").proposals_dir("small", "test") / "other.import.json").read_text()
    )
    assert (report["file"], report["tracks"]) == (f"{tmp_path / 'b.txt'}, {tmp_path / 'more' / 'b.txt'}", True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--import", "b.txt"), "--import needs --name"),
        (("--import", "b.txt", "--name", "a", "--detector", "127.0.0.1:1"), "--detector has no effect with --import"),
        (("--import", "b.txt", "--name", "a", "--track"), "--track has no effect with --import; leave it out"),
        (("--import", "b.txt", "--name", "a", "--window", "24"), "--window has no effect with --import"),
        (("--detector", "127.0.0.1:1", "--category", "1"), "--category has no effect without --import; add --import"),
        ((), "Missing option '--detector' (or --import FILE"),
    ],
)
def test_options_that_do_not_apply_are_refused(words: tuple[str, ...], message: str, data: Path) -> None:
    done = CliRunner().invoke(detect, [str(data), "--split", "test", "--store", "store", *words])
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())


def test_the_address_in_the_environment_does_not_keep_from_importing(data: Path, tmp_path: Path) -> None:
    words = [str(data), "--split", "test", "--store", str(tmp_path / "store"), "--name", "other"]
    words += ["--import", str(_write_mot(tmp_path / "b.txt"))]
    assert CliRunner(env={"STAL_DETECTOR": "127.0.0.1:1"}).invoke(detect, words).exit_code == 0


def test_a_confidence_of_minus_one_is_unknown(data: Path, tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("26,1,0,0,8,8,-1,-1,-1\n")
    assert _import(tmp_path / "b.txt", data).exit_code == 0
    _, scores = open_proposals(Store.open(tmp_path / "store"), "small", "test", "other").of(KeyFrame("b", 1000))
    assert np.isnan(scores).tolist() == [True]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("b.txt", "0,1,0,0,8,8,1,-1,-1", "line 1: the frame is 0"),
        ("b.txt", "1,1,0,0,8,8,67.5,-1,-1", "confidence must be in"),
        ("b.txt", "1,-2,0,0,8,8,1,-1,-1", "line 1: the id is -2, but must be from 0"),
        ("b.txt", "1,1.5,0,0,8,8,1,-1,-1", "line 1: the id is '1.5', but must be a whole number"),
        ("b.txt", "26,3,0,0,8,8,1,-1,-1\n26,3,9,0,8,8,1,-1,-1", "Track 3 has 2 boxes at key frame b,0001"),
        ("b.txt", "1,1,0,0,x,8,1,-1,-1", "line 1: a number of the box is 'x'"),
        ("b.txt", "1,1,9,9,-5,8,1,-1,-1", "the box must be x,y,width,height"),
        ("b.txt", "1,1,0,0,8,8,1,-1,-1\n1,1,0,0", "line 2 has 4 columns"),
        ("r.json", '[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]', "give the COCO file"),
        ("r.json", '[{"image_id": "b_1.png", "category_id": 1, "bbox": [0, 0, 1, 1], "score": 2}]', "0.score is 2"),
        ("r.json", '{"images": []}', "valid list"),
        ("r.json", '[{"image_id": "b_1.png", "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1}]', "no key frame in"),
    ],
)
def test_bad_files_are_refused(name: str, content: str, message: str, data: Path, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content + "\n")
    assert message in str(_import(tmp_path / name, data).exception)


def test_images_belong_to_results_and_must_have_their_ids(data: Path, tmp_path: Path) -> None:
    file, words = _write_coco(tmp_path, by_name=False)
    Path(words[1]).write_text('{"images": []}')
    assert "which is no image of" in str(_import(file, data, *words).exception)
    assert "is no JSON of COCO's results" in str(_import(_write_mot(tmp_path / "b.txt"), data, *words).exception)
