"""Imports files of annotation tools: a CSV in AVA's format for each split, label map, dataset.yaml and a report."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np
import yaml

from stal_data.csv_lines import csv_text
from stal_data.dataset_spec import FILE_NAME
from stal_data.digests import sha256_of
from stal_data.errors import ConflictError, InputError, did_you_mean, shown_problems
from stal_data.files import write_together
from stal_data.formats.ava import ava_rows
from stal_data.formats.sources import Reading, Source
from stal_data.formats.tool_formats import recognised
from stal_data.formats.tracks import MILLISECONDS, FileAnnotations, PersonBox, VideoAnnotations
from stal_data.imports.media import ImportedMedia, id_of
from stal_data.imports.merging import MergedKeyFrames
from stal_data.imports.sampling import key_frames
from stal_data.keyframes import KeyFrame
from stal_data.labels import Label, LabelMap
from stal_data.names import check_name
from stal_data.validation import Counts

REPORT_NAME = "import_report.json"
_LABEL_MAP = "label_map.pbtxt"


@dataclass(frozen=True, kw_only=True)
class ReadFile:
    """sha256: None of a folder. boxes: drawn ones, and those of images."""

    file: str
    format: str
    sha256: str | None
    videos: int
    tracks: int
    boxes: int


@dataclass(kw_only=True)
class ImportReport:
    """What became of the files.

    interpolated: boxes at key frames that nobody drew. clipped: boxes that reached beyond the picture.
    merged: annotations that another file has, or the same one repeats. renumbered: people whose id another file has
    given away. dropped: what is not in the data set, by reason.
    """

    files: list[ReadFile] = field(default_factory=list)
    splits: list[Counts] = field(default_factory=list)
    interpolated: int = 0
    clipped: int = 0
    merged: int = 0
    renumbered: int = 0
    dropped: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """name: of the data set. split: for what the files assign to none. format: or `auto`.

    fps: rate of the frame numbers, where the file does not say it. every_ms: see `sampling.key_frames`.
    drop_unknown_labels: leave out actions that the label map of `reading` lacks.
    """

    name: str
    split: str = "all"
    format: str = "auto"
    fps: Fraction | None = None
    every_ms: int | None = None
    drop_unknown_labels: bool = False
    reading: Reading = field(default_factory=Reading)


def import_files(
    paths: Sequence[Path],
    output: Path,
    options: ImportOptions,
    media: ImportedMedia,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> ImportReport:
    """Write the data set into the folder `output`, and the report beside it; nothing is written after an error.

    progress: called with the numbers of files that are read, and of all, after each file.
    """
    check_name("--name", options.name)
    target = output / FILE_NAME
    if target.exists():
        raise ConflictError(f"{output} already holds a data set ({target}): choose another folder, or remove the file.")
    report, dropped = ImportReport(), Counter[str]()
    splits: dict[str, MergedKeyFrames] = defaultdict(MergedKeyFrames)
    names: dict[str, None] = {}
    for number, path in enumerate(paths, 1):
        source = Source(path)
        tool = recognised(source, options.format)
        content = tool.read(source, options.reading)
        names |= dict.fromkeys(content.actions)
        report.files.append(_read_file(source, tool.name, content))
        dropped.update(content.left_out)
        full_names: dict[str, str] = {}
        for video in content.videos:
            other = full_names.setdefault(id_of(video.name), video.name)
            if other != video.name:
                raise InputError(
                    f"{path}: '{other}' and '{video.name}' would be one video '{id_of(other)}': rename one."
                )
            if video.splits == ():
                dropped["videos in no split of their file"] += 1
                continue
            found = _key_frames(video, str(path), options, media, report, dropped)
            for split in (options.split,) if video.splits is None else video.splits:
                splits[check_name("The split", split)].add(id_of(video.name), found)
        progress(number, len(paths))
    if not any(merged.people for merged in splits.values()):
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise InputError(
            f"{', '.join(map(str, paths))}: no box of a person was found{reasons and f', only {reasons}'}."
        )
    label_map = _label_map(names, splits.values(), options, dropped)
    files: dict[Path, bytes | str] = {output / _LABEL_MAP: label_map.to_pbtxt()}
    for split, merged in splits.items():
        annotated = merged.annotated(label_map)
        files[output / f"{split}.csv"] = csv_text(ava_rows(annotated))
        report.splits.append(Counts.of_key_frames(split, annotated, 0, label_map))
        report.merged += merged.merged
        report.renumbered += merged.renumbered
    report.dropped = {reason: count for reason, count in sorted(dropped.items()) if count}
    files[output / REPORT_NAME] = json.dumps(asdict(report), indent=2, ensure_ascii=False) + "\n"
    dataset = {
        "name": options.name,
        "format": "ava",
        "label_map": _LABEL_MAP,
        "media": media.section(sorted({key.video for merged in splits.values() for key in merged.people}), output),
        "splits": {split: {"annotations": f"{split}.csv"} for split in splits},
    }
    files[target] = yaml.safe_dump(dataset, sort_keys=False, allow_unicode=True)
    write_together(files)
    return report


def _read_file(source: Source, name: str, content: FileAnnotations) -> ReadFile:
    tracks = [track for video in content.videos for track in video.tracks]
    drawn = sum(point.visible and point.drawn for track in tracks for point in track.points)
    return ReadFile(
        file=str(source.path),
        format=name,
        sha256=None if source.kind == "folder" else sha256_of(source.path),
        videos=len(content.videos),
        tracks=len(tracks),
        boxes=drawn + sum(len(people) for video in content.videos for people in video.images.values()),
    )


def _key_frames(
    video: VideoAnnotations,
    where: str,
    options: ImportOptions,
    media: ImportedMedia,
    report: ImportReport,
    dropped: Counter[str],
) -> list[tuple[KeyFrame, list[PersonBox]]]:
    name = id_of(video.name)
    fps = video.fps if video.fps == MILLISECONDS else options.fps or video.fps
    size = video.size if video.pixels else (1, 1)
    info = media.info(name) if fps is None or size is None else None
    if info is not None:
        fps, size = fps or info.rate, size or (info.width, info.height)
    if fps is None:
        raise InputError(f"{where} numbers the frames of '{name}', and their rate is unknown: give --videos or --fps.")
    if size is None:
        raise InputError(
            f"{where} has boxes of '{name}' in pixels, and its size is unknown: give --videos or --frames."
        )
    found = []
    for time_ms, people in key_frames(video, fps, options.every_ms, dropped):
        boxes = (np.array([person.box for person in people]).reshape(-1, 4) / (*size, *size)).astype(np.float32)
        kept = []
        for person, (x1, y1, x2, y2), box in zip(people, boxes.clip(0, 1).tolist(), boxes.tolist(), strict=True):
            if x1 >= x2 or y1 >= y2:
                dropped["boxes outside the picture"] += 1
                continue
            report.clipped += [x1, y1, x2, y2] != box
            report.interpolated += person.interpolated
            kept.append(PersonBox(person.person, (x1, y1, x2, y2), person.actions))
        found.append((KeyFrame(*media.placed(name, time_ms)), kept))
    return found


def _label_map(
    names: Mapping[str, None], splits: Collection[MergedKeyFrames], options: ImportOptions, dropped: Counter[str]
) -> LabelMap:
    """Return the user's map, or number the names as the files declare them, then those that they only use."""
    people = (actions for merged in splits for found in merged.people.values() for actions in found.values())
    used = Counter(action for actions in people for action in actions)
    label_map = options.reading.label_map
    if label_map is None:
        all_names = [*names, *sorted(used.keys() - names.keys())]
        return LabelMap((Label(number, name) for number, name in enumerate(all_names, start=1)), "The list of actions")
    unknown = sorted(used.keys() - set(label_map.names))
    if unknown and not options.drop_unknown_labels:
        known = label_map.names
        texts = shown_problems(unknown, lambda name: f"'{name}'. {did_you_mean(name, known)}", separator=" ")
        raise InputError(
            f"{label_map.source} lacks actions of the files: {texts} Correct either, or give --unknown-labels drop."
        )
    dropped.update({f"actions '{name}', which the label map lacks": used[name] for name in unknown})
    return label_map
