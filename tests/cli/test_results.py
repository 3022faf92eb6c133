"""What `infer` writes about the people of videos: files for people and programs."""

import csv
import json
import re
from dataclasses import replace
from fractions import Fraction
from html import unescape
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.proposal_store import DetectorSpec, Proposals, write_proposals
from cache.store import Store
from cache.tracks import Tracks
from cli.workflow.predictions import Person
from cli.workflow.results.annotated_video import write_annotated_video
from cli.workflow.results.drawing import PeoplePainter, action_colour
from cli.workflow.results.people import VideoPeople, people_of
from cli.workflow.results.subtitles import web_vtt
from cli.workflow.results.writing import write_results
from stal_data.dataset import Dataset
from stal_data.errors import InputError
from stal_data.keyframes import KeyFrame
from stal_data.media import MediaInfo
from stal_data.media.video import VideoFiles
from stal_data.own_videos import write_video_dataset
from tests.cli.results_case import HOSTILE, NAMES, people_in, person, scored, walkers
from tests.data.videos import HEIGHT, WIDTH, constant, number_of, write_video

INFO = MediaInfo(width=80, height=48, rate=Fraction(25), num_frames=100, start_s=0, duration_s=4)


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("videos") / "street.mp4", constant(25, 100))


@pytest.fixture(scope="module")
def written(street: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of two videos; the second has nobody."""
    folder = tmp_path_factory.mktemp("results")
    empty = write_video(folder / f"{HOSTILE.replace('/', '').splitlines()[0]}.mp4", constant(25, 50))
    videos = [
        scored(folder / "out" / "videos" / "a", walkers(street), street),
        scored(folder / "out" / "videos" / "b", people_in(empty, [{}, {}]), empty),
    ]
    write_results(folder / "out", videos, NAMES)
    return folder / "out"


def test_people_with_tracks_have_segments(written: Path) -> None:
    with (written / "actions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["video"], row["person"], row["action"]) for row in rows] == [
        ("street", "1", "walk"),
        ("street", "1", HOSTILE),
        ("street", "2", "wave"),
    ]


def test_tracking_that_finds_nobody_leaves_a_table_without_rows(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.mp4", constant(25, 50))
    none = np.zeros(0, dtype=np.int64)
    boxes_04, scores_0, offsets_1 = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(1, np.int64)
    proposals = Proposals(
        dataset="case",
        split="all",
        key_frames=(KeyFrame("v", 0),),
        offsets_K1=np.zeros(2, np.int64),
        boxes_N4=boxes_04,
        scores_N=scores_0,
        detector=DetectorSpec(name="d", weights="sha256:0", height=32, width=32, confidence=0.3, library="l"),
        tracks=Tracks(
            tracker="t",
            ids_N=none,
            frames=(),
            offsets_M1=offsets_1,
            boxes_P4=boxes_04,
            scores_P=scores_0,
            ids_P=none,
        ),
    )
    written = write_proposals(Store.open(str(tmp_path / "store"), create=True), proposals)
    video = replace(scored(tmp_path / "out" / "v", people_in(path, [{}, {}]), path), proposals=written)
    write_results(tmp_path / "out", [video], NAMES)
    assert (tmp_path / "out" / "actions.csv").read_text() == "video,person,action,start_s,end_s,score\n"


boxes = st.tuples(*[st.floats(0, 0.5)] * 2, *[st.floats(0.5, 1)] * 2)


@given(boxes, boxes, st.integers(0, 3000), st.integers(1, 3))
def test_a_box_moves_evenly_between_neighbouring_key_frames_and_stays_elsewhere(
    first: tuple[float, float, float, float],
    second: tuple[float, float, float, float],
    time_ms: int,
    gap: int,
) -> None:
    """gap: key frames from one sighting to the next."""
    frames: list[dict[int, Person]] = [{} for _ in range(4)]
    frames[0], frames[gap] = {7: Person(first, ((1, 0.9),))}, {7: Person(second, ((2, 0.8),))}
    people = VideoPeople(video="v", info=INFO, times_ms=(0, 1000, 2000, 3000), people=tuple(frames))
    seen = people.at(time_ms)
    assert set(seen) == ({7} if time_ms < 500 or abs(time_ms - 1000 * gap + 0.5) <= 500 else set())
    for found in seen.values():
        assert found.actions == (((1, 0.9),) if time_ms < 500 else ((2, 0.8),))
        if gap == 1 and time_ms <= 1000:
            share = time_ms / 1000
            assert found.box == pytest.approx([(1 - share) * a + share * b for a, b in zip(first, second, strict=True)])
        else:
            assert found.box == (first if time_ms < 500 else second)


def test_the_ends_of_a_video_and_a_lone_key_frame_stand_for_half_a_step() -> None:
    people = VideoPeople(video="v", info=INFO, times_ms=(200, 400), people=({1: person(0)}, {1: person(0.5)}))
    assert people.spans() == [(100, 300), (300, 500)]
    assert [bool(people.at(time_ms)) for time_ms in (99, 100, 499, 501)] == [False, True, True, False]
    lone = VideoPeople(video="v", info=INFO, times_ms=(0,), people=({1: person(0)},))
    assert [bool(lone.at(time_ms)) for time_ms in (0, 499, 501)] == [True, True, False]


def test_a_tracked_person_moves_through_the_boxes_between_key_frames() -> None:
    """Also in the half step after the last key frame that shows the person."""
    between = {1: [(250.0, person(0.5).box), (1250.0, person(0.6).box)], 9: [(500.0, person(0.9).box)]}
    shown = ({1: person(0)}, {1: person(0.4)}, {})
    people = VideoPeople(video="v", info=INFO, times_ms=(0, 1000, 2000), people=shown, between=between)
    left = [people.at(time_ms)[1].box[0] for time_ms in (0, 125, 250, 625, 1000, 1250, 1499)]
    assert left == pytest.approx([0, 0.25, 0.5, 0.45, 0.4, 0.6, 0.6])
    assert list(people.at(500)) == [1], "nobody is shown who is at no key frame"
    assert people.at(1501) == {}


def read(folder: Path, video: Path, rows: list[str]) -> list[dict[int, float]]:
    """Return the left sides of the boxes by id, at each key frame."""
    write_video_dataset(folder / "data", "own", [video])
    (folder / "predictions.csv").write_text("".join(f"{video.stem},{row}\n" for row in rows))
    split = Dataset.open(folder / "data").split("all")
    people = people_of(split, video.stem, folder / "predictions.csv", min_score=0.5)
    return [{number: found.box[0] for number, found in there.items()} for there in people.people]


def test_people_without_ids_are_followed_from_key_frame_to_key_frame(street: Path, tmp_path: Path) -> None:
    rows = ["0,0.1,0,0.3,1,1,0.9", "0,0.6,0,0.8,1,1,0.9"]
    rows += ["1,0.55,0,0.75,1,1,0.9", "1,0.15,0,0.35,1,1,0.9", "1,0.15,0,0.35,1,2,0.1"]
    rows += ["3,0.15,0,0.35,1,1,0.1"]  # nobody at second 2; of no action that counts
    assert read(tmp_path, street, rows) == [{1: 0.1, 2: 0.6}, {1: 0.15, 2: 0.55}, {}, {3: 0.15}]


def test_the_tracks_of_the_file_are_kept_and_the_others_followed(street: Path, tmp_path: Path) -> None:
    rows = ["0,0.1,0,0.3,1,1,0.9,5", "0,0.6,0,0.8,1,1,0.9,-1"]
    rows += ["1,0.6,0,0.8,1,1,0.9,5", "1,0.12,0,0.32,1,1,0.9,-1", "1,0.65,0,0.85,1,1,0.9,-1"]
    rows += ["2,0.65,0,0.85,1,1,0.9,-1"]
    assert read(tmp_path, street, rows) == [{5: 0.1, 6: 0.6}, {5: 0.6, 7: 0.12, 6: 0.65}, {6: 0.65}, {}]


def test_two_people_of_one_track_in_a_key_frame_are_refused(street: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Two people of a key frame have one track"):
        read(tmp_path, street, ["0,0.1,0,0.3,1,1,0.9,5", "0,0.6,0,0.8,1,1,0.9,5"])


def test_subtitles_follow_the_rules_of_webvtt(tmp_path: Path) -> None:
    text = web_vtt(walkers(tmp_path / "street.mp4"), NAMES)
    blocks = text.split("\n\n")
    assert blocks[0] == "WEBVTT"
    assert blocks[-1] == ""
    cues = [block.split("\n") for block in blocks[1:-1]]
    times = [re.fullmatch(r"(\d\d:\d\d:\d\d\.\d{3}) --> (\d\d:\d\d:\d\d\.\d{3})", cue[0]) for cue in cues]
    assert [found and found.groups() for found in times] == [
        ("00:00:00.000", "00:00:00.500"),
        ("00:00:00.500", "00:00:01.500"),
        ("00:00:02.500", "00:00:03.500"),
    ]
    assert not any("-->" in line or "<" in line or "\n" in line for cue in cues for line in cue[1:])
    assert cues[1][1:] == ["1: walk", "2: wave"]
    assert unescape(cues[2][1]) == f"1: {' '.join(HOSTILE.split())}"


def test_cues_of_the_same_words_become_one_and_hours_are_written() -> None:
    times_ms = tuple(3_600_000 + 1000 * second for second in range(3))
    moving = tuple({1: person(0.1 * second, (1, 0.9 - second / 10))} for second in range(3))
    text = web_vtt(VideoPeople(video="v", info=INFO, times_ms=times_ms, people=moving), NAMES)
    assert text == "WEBVTT\n\n00:59:59.500 --> 01:00:02.500\n1: walk\n\n"


def test_coco_has_key_frames_as_images_and_actions_as_annotations(written: Path) -> None:
    coco = json.loads((written / "coco.json").read_text())
    assert coco["categories"] == [{"id": label, "name": name} for label, name in NAMES.items()]
    assert [video["id"] for video in coco["videos"]] == [1, 2]
    assert [image["id"] for image in coco["images"]] == list(range(1, 7))
    assert coco["images"][1] == {
        "id": 2,
        "video_id": 1,
        "frame_id": 25,
        "file_name": "street/street_000026.png",
        "width": WIDTH,
        "height": HEIGHT,
        "time_s": 1.0,
    }
    found = [(item["image_id"], item["category_id"], item["track_id"], item["score"]) for item in coco["annotations"]]
    assert found == [(1, 1, 1, 0.9), (2, 1, 1, 0.8), (2, 3, 2, 0.7), (4, 2, 1, 0.6)]
    assert coco["annotations"][1]["bbox"] == [0.4 * WIDTH, 0.25 * HEIGHT, 0.25 * WIDTH, 0.5 * HEIGHT]
    assert coco["annotations"][1]["area"] == 0.25 * WIDTH * 0.5 * HEIGHT
    assert len({item["id"] for item in coco["annotations"]}) == 4


def test_json_lines_and_predictions_of_all_videos(written: Path) -> None:
    lines = [json.loads(line) for line in (written / "actions.jsonl").read_text().splitlines()]
    assert [(line["video"], line["time_s"], line["person"]) for line in lines] == [
        *(("street", 0, 1), ("street", 1, 1), ("street", 1, 2), ("street", 3, 1))
    ]
    assert lines[1] | {"box": None} == lines[1] | {"box": None, "actions": {"walk": 0.8}}
    parts = [path.read_text() for path in sorted((written / "videos").glob("*/predictions.csv"))]
    assert (written / "predictions.csv").read_text() == "".join(parts)


def blocks_of(page: Path) -> list[dict[str, Any]]:
    found = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page.read_text(), re.DOTALL)
    return [json.loads(text) for text in found]


def test_hostile_names_stay_text_in_the_page(written: Path) -> None:
    text = (written / "index.html").read_text()
    assert text.count("<script") == text.count("</script>") == 4  # classes, two videos, and the program
    assert "<img" not in text
    classes, street, other = blocks_of(written / "index.html")
    assert classes["classes"]["2"]["name"] == HOSTILE
    assert street["source"].endswith("/street.mp4")
    assert "<" not in other["source"]
    assert "%3C" in other["source"]
    assert re.search(r"default-src 'none'; media-src 'self' file:; style-src 'sha256-[^']+'; script-src", text)


def test_the_page_holds_little_for_each_person_and_key_frame(tmp_path: Path) -> None:
    """Two hours with twenty people stay below ten megabytes."""
    path = write_video(tmp_path / "v.mp4", constant(25, 25))
    crowd = [{number: person(0.031 * number, (1, 0.912), (3, 0.512)) for number in range(1, 21)}] * 50
    sizes = []
    for seconds in (1, 50):
        output = tmp_path / str(seconds)
        write_results(output, [scored(output / "v", people_in(path, crowd[:seconds]), path)], NAMES)
        sizes.append((output / "index.html").stat().st_size)
    assert (sizes[1] - sizes[0]) / 49 * 7200 < 10e6


def pictures(path: Path) -> tuple[list[float], list[np.ndarray]]:
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in file.decode(stream)]
    return [time for time, _ in frames if time is not None], [picture for _, picture in frames]


def grey_video(path: Path, width: int, height: int, times_s: list[Fraction]) -> Path:
    """An uncompressed video in one grey."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "bgr0"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for time_s in times_s:
            frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), 90, np.uint8), "rgb24")
            frame.pts, frame.time_base = round(1000 * time_s), Fraction(1, 1000)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def test_the_annotated_video_shows_boxes_where_people_are_in_between(tmp_path: Path) -> None:
    times = [Fraction(number, 25) + Fraction(number % 3, 200) for number in range(75)]  # no constant rate
    source = grey_video(tmp_path / "street.mkv", 320, 192, times)
    people = people_in(source, [{1: person(0.1, (1, 0.9))}, {1: person(0.6, (2, 0.9))}, {}])
    write_annotated_video(tmp_path / "out.mp4", source, people, NAMES)
    seconds, shown = pictures(tmp_path / "out.mp4")
    assert seconds == pytest.approx([float(time) for time in times], abs=2e-3)
    assert {picture.shape for picture in shown} == {(192, 320, 3)}
    for number in (0, 8, 20, 25):
        line = shown[number][120].astype(int)  # a row of pixels through the box, below its labels
        changed = np.flatnonzero(np.abs(line - 90).max(axis=1) > 40)
        left = people.at(1000 * seconds[number])[1].box[0] * 320
        assert changed[[0, -1]] == pytest.approx([left, left + 80], abs=3), number
        strongest = line[changed[np.abs(line[changed] - 90).max(axis=1).argmax()]]
        nearest = min((1, 2), key=lambda label: np.abs(strongest - action_colour(label)).max())
        assert nearest == (1 if number < 12 else 2), number
    assert np.abs(shown[50].astype(int) - 90).max() < 20  # nobody is there at second 2


@pytest.mark.parametrize("odd", [(79, 47), (80, 47)])
def test_odd_sides_grow_by_one_pixel(tmp_path: Path, odd: tuple[int, int]) -> None:
    source = grey_video(tmp_path / "odd.mkv", *odd, [Fraction(number, 25) for number in range(5)])
    people = people_in(source, [{1: person(0.75, (1, 0.9), y=0.5)}])
    write_annotated_video(tmp_path / "out.mp4", source, people, NAMES)
    _, shown = pictures(tmp_path / "out.mp4")
    assert [picture.shape for picture in shown] == [(48, 80, 3)] * 5


def test_every_picture_of_a_file_comes_once_with_its_time(tmp_path: Path) -> None:
    times = [Fraction(number, 50) + Fraction(number % 3, 400) for number in range(40)]
    media = VideoFiles({"v": write_video(tmp_path / "v.mp4", times)}, start_s=2)
    found = list(media.pictures("v"))
    assert [number_of(picture) for _, picture in found] == list(range(40))
    assert [second for second, _ in found] == pytest.approx([2 + float(time) for time in times], abs=1e-3)


def test_labels_stay_in_the_picture_and_names_without_a_font_are_told() -> None:
    unknown = "\U000e1234"  # of a plane that no font has
    painter = PeoplePainter({1: "w\nalk", 2: unknown, 3: "a name that is far longer than the picture is wide"}, 80, 48)
    assert painter.unwritable == [unknown]
    picture = np.zeros((48, 80, 3), np.uint8)
    painter.draw(picture, {1: person(0.9, (3, 0.9), (2, 0.8), (1, 0.7), y=0), 2: person(-0.2, y=0.9)})
    assert (picture == action_colour(3)).all(axis=2).sum() > 100


def test_labels_of_people_close_to_one_another_do_not_cover_each_other() -> None:
    painter = PeoplePainter({1: "walk", 2: "wave", 3: "run"}, 320, 192)

    def labels(people: dict[int, Person]) -> list[int]:
        """The number of pixels in each person's colour above the boxes."""
        picture = np.zeros((192, 320, 3), np.uint8)
        painter.draw(picture, people)
        colours = [action_colour(found.actions[0][0]) for found in people.values()]
        return [int((picture[:96] == colour).all(axis=2).sum()) for colour in colours]

    close = {label: person(0.4 + 0.01 * label, (label, 0.9), y=0.5) for label in (1, 2, 3)}
    alone = [labels({number: found})[0] for number, found in close.items()]
    assert labels(close) == alone
    top = {label: person(0.4, (label, 0.9), y=0) for label in (1, 2, 3)}  # nothing is free above them
    assert all(a >= b for a, b in zip(labels(top), alone, strict=True)), "beside the boxes"


def test_colours_belong_to_label_ids() -> None:
    assert [action_colour(label) for label in range(1, 8)] == [action_colour(label) for label in range(8, 15)]
    assert len({action_colour(label) for label in range(1, 8)}) == 7
