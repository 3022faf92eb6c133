"""Write the synthetic data set as a complete data set folder in Chaotic World's layout.

OUT/dataset.yaml
OUT/frames/<video>/<video>_%06d.png         numbered from 1
OUT/annotations/{train,test}.csv            13 columns, labels from 0
OUT/annotations/{train,test}_gt.csv         for scoring, labels from 1
OUT/annotations/{train,test}_excluded.csv   empty
OUT/annotations/list_action.pbtxt
"""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from stal_data.annotations import read_chaotic_world, write_ground_truth
from stal_data.children import safe_path, usable_cores
from stal_data.csv_lines import write_csv
from stal_data.errors import ConflictError, InputError
from stal_data.files import naming, write_atomically
from stal_data.labels import LabelMap
from stal_data.owner import end_with
from stal_data.synth.base import SPLITS, Annotation, Video
from stal_data.synth.png import encode_png
from stal_data.synth.styles import STYLES
from stal_data.work_folder import work_folder

Progress = Callable[[int, int], None]

_HEADER = """\
name: synthetic
format: chaotic_world
label_map: annotations/list_action.pbtxt
media:
  kind: frames
  root: frames
splits:
"""
_SPLIT = """\
  {name}:
    annotations: annotations/{name}.csv
    exclusions: annotations/{name}_excluded.csv
"""


def render_dataset(
    out: Path,
    *,
    seed: int,
    train_videos: int,
    test_videos: int,
    style: str = "a",
    progress: Progress | None = None,
    processes: int | None = None,
) -> None:
    """Render the data set into the new folder `out`, which appears complete or not at all.

    A split of 0 videos is left out of the data set.
    style: which of STYLES the videos have.
    progress: called with (videos done, videos in all) after each video.
    processes: how many render at a time; all cores by default. The bytes written do not depend on it.
    """
    for field, value in (("seed", seed), ("train_videos", train_videos), ("test_videos", test_videos)):
        if value < 0:
            raise InputError(f"{field} is {value}: it must be 0 or greater.")
    counts = {"train": train_videos, "test": test_videos}
    if style not in STYLES:
        raise InputError(f"style is '{style}': it must be one of {', '.join(STYLES)}.")
    names = [name for name in SPLITS if counts[name]]
    if not names:
        raise InputError("train_videos and test_videos are both 0: ask for at least one video.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConflictError(f"The output '{out}' exists already: name a new folder, or remove it first.")
    if out.exists() and (out.samefile(Path.cwd()) or out.is_mount()):
        raise ConflictError(f"The output '{out}' cannot be replaced as a whole: name a new folder in it.")
    make = STYLES[style]
    videos = [make(seed=seed, split=name, number=i) for name in names for i in range(counts[name])]
    with work_folder(out) as building:
        annotations = _render_all(videos, building / "frames", processes or usable_cores(), progress)
        folder = building / "annotations"
        write_atomically(folder / "list_action.pbtxt", make.classes.label_map_text())
        for name in names:
            rows = [a for video in videos if video.split == name for a in annotations[video.name]]
            _write_annotations(folder, name, rows)
        write_atomically(building / "dataset.yaml", _HEADER + "".join(_SPLIT.format(name=name) for name in names))
        building.replace(out)


def _render_all(
    videos: list[Video[Any]], frames: Path, processes: int, progress: Progress | None
) -> dict[str, list[Annotation]]:
    """Render the videos, several at a time; returns each one's annotations."""
    report = progress or (lambda _done, _total: None)
    annotations: dict[str, list[Annotation]] = {}
    if processes == 1:
        for video in videos:
            annotations[video.name] = _render_video(video, frames)
            report(len(annotations), len(videos))
        return annotations
    # Not forked: the caller may have threads, such as a progress display's.
    context = multiprocessing.get_context("spawn")
    processes, others = min(processes, len(videos)), set(multiprocessing.active_children())
    with safe_path():
        pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(os.getpid(),))
        try:
            pending = {pool.submit(_render_video, video, frames): video.name for video in videos}
            for future in as_completed(pending):
                annotations[pending[future]] = future.result()
                report(len(annotations), len(videos))
            pool.shutdown()
        except BaseException:
            for process in set(multiprocessing.active_children()) - others:
                process.kill()  # else what it is at, and what it has fetched already, would be rendered first
                process.join()
            # Without waiting for the pool's thread, which may be reading what a killed process had half sent.
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return annotations


def _begin(owner: int) -> None:
    """Prepare a process that renders: it has nothing to save, and Ctrl-C in the terminal is for its owner."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with(owner, signal.SIGKILL)


def _render_video(video: Video[Any], frames: Path) -> list[Annotation]:
    scene = video.plan()
    folder = frames / video.name
    folder.mkdir(parents=True)
    for number, frame in enumerate(video.frames(scene), start=1):
        with naming(path := folder / f"{video.name}_{number:06d}.png"):
            path.write_bytes(encode_png(frame))
    return video.annotations(scene)


def _write_annotations(folder: Path, split: str, annotations: Iterable[Annotation]) -> None:
    """Write the annotations of a split, no exclusions, and, as read back, the ground truth for scoring."""
    published = folder / f"{split}.csv"
    write_csv(published, map(_published_row, annotations))
    write_atomically(folder / f"{split}_excluded.csv", "")
    label_map = LabelMap.read(folder / "list_action.pbtxt")
    write_ground_truth(folder / f"{split}_gt.csv", read_chaotic_world(published, label_map))


def _published_row(a: Annotation) -> Sequence[object]:
    box = (f"{value:.9g}" for value in a.box)
    return (a.video, a.timestamp, *box, a.label_id - 1, a.person, *a.window, f"{a.timestamp:.1f}", 0, 0)
