"""`dataset split`: a new data set whose splits share no video."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import yaml

from stal_data.amounts import amount
from stal_data.csv_lines import csv_text, read_csv
from stal_data.dataset import Dataset
from stal_data.dataset_spec import FILE_NAME
from stal_data.errors import ConflictError, InputError
from stal_data.files import write_together
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame
from stal_data.names import check_name
from stal_data.own_videos import stored_path
from stal_data.stratification import KEY_FRAMES, stratify
from stal_data.times import format_time
from stal_data.user_files import read_bounded
from stal_data.yaml_text import read_yaml

_LABEL_MAP, _MAX_LABEL_MAP_BYTES = "label_map.pbtxt", 8 << 20
_FRACTION = re.compile(r"0?\.\d{1,6}|\d{1,6}/[1-9]\d{0,5}")


def parse_fractions(text: str) -> dict[str, Fraction]:
    """Read `train=0.7,val=0.15,test=0.15`, also `train=2/3,test=1/3`; the sum must be exactly 1."""
    pairs = [item.partition("=")[::2] for item in text.split(",")]
    found = {check_name("The split", name): Fraction(part) for name, part in pairs if _FRACTION.fullmatch(part)}
    if len(found) < max(len(pairs), 2) or sum(found.values()) != 1 or not all(found.values()):
        raise InputError(
            f"The fractions are '{text[:200]}', but must be two or more different splits, each with a number between "
            "0 and 1, and the sum must be 1: train=0.7,val=0.15,test=0.15, or train=2/3,test=1/3."
        )
    return found


def split_dataset(
    dataset: Dataset, output: Path, name: str, fractions: Mapping[str, Fraction], *, sources: Sequence[str], seed: int
) -> list[str]:
    """Write a data set `name` into the folder `output`, whose rows are those of the splits `sources`, by video.

    The lines of the annotation files stay as they are, and so do exclusions. The media stay where they are.
    Return sentences that say which classes a new split lacks, and why.
    """
    if (output / FILE_NAME).exists():
        raise ConflictError(f"{output} already holds a data set: choose another folder.")
    splits = [dataset.split(source) for source in sources]
    label_map = dataset.label_map
    bare = [split.name for split in splits if not split.annotated]
    if label_map is None or bare:
        what = f"split '{bare[0]}' has no annotations" if bare else "there is no label map"
        raise InputError(
            f"{dataset.path}: {what}, so it cannot be divided. Name splits with annotations with --from, or bring "
            "annotations in with 'stal-cli dataset import'."
        )
    key_frames = sorted((item for split in splits for item in split.key_frames), key=lambda item: item.key)
    exclusions = frozenset[KeyFrame]().union(*(split.exclusions for split in splits))
    if clash := next((item.key for item in key_frames if item.key in exclusions), None):
        raise InputError(f"Key frame {clash} is excluded in one split and used in another: decide for one of them.")
    lines = _lines(dataset, sources)
    counts = _counts(key_frames)
    if len(counts) < len(fractions):
        raise InputError(
            f"{', '.join(sources)}: {amount(len(counts), 'video')}, but {len(fractions)} splits need as many."
        )
    # A video whose key frames are all excluded counts for nothing.
    videos = (*lines, *(key.video for key in exclusions))
    split_of = dict.fromkeys(videos, next(iter(fractions))) | stratify(counts, fractions, seed)
    files: dict[Path, bytes | str] = {
        output / _LABEL_MAP: read_bounded(dataset.root / str(dataset.spec.label_map), _MAX_LABEL_MAP_BYTES)
    }
    entries: dict[str, dict[str, str]] = {}
    for split in fractions:
        entries[split] = {"annotations": f"annotations/{split}.csv"}
        of_split = [line for video in sorted(lines) if split_of[video] == split for line in lines[video]]
        files[output / entries[split]["annotations"]] = csv_text(of_split)
        if excluded := sorted(key for key in exclusions if split_of[key.video] == split):
            entries[split]["exclusions"] = f"exclusions/{split}.csv"
            rows = ((key.video, format_time(key.time_ms)) for key in excluded)
            files[output / entries[split]["exclusions"]] = csv_text(rows)
        if any(dataset.split_spec(source).first_row == "lost" for source in sources):
            entries[split]["first_row"] = "lost"
    content = read_yaml(dataset.path)
    media = {**content["media"]}
    if "root" in media:
        media["root"] = stored_path(dataset.root / media["root"], output)
    if "files" in media:
        media["files"] = {video: stored_path(dataset.root / path, output) for video, path in media["files"].items()}
    content |= {"name": check_name("--name", name), "label_map": _LABEL_MAP, "media": media, "splits": entries}
    files[output / FILE_NAME] = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_together(files)
    having = Counter(label for found in counts.values() for label in found)
    few = f"fewer than the {len(fractions)} splits"
    return [
        f"Split {split} lacks '{label.name}'. Videos with it: {having[label.id]}, "
        f"{few if having[label.id] < len(fractions) else 'needed elsewhere for other classes'}."
        for split in fractions
        for label in label_map.labels
        if having[label.id] and not any(found[label.id] for video, found in counts.items() if split_of[video] == split)
    ]


def _lines(dataset: Dataset, sources: Iterable[str]) -> dict[str, list[list[str]]]:
    found: dict[str, list[list[str]]] = defaultdict(list)
    for source in sources:
        annotations = dataset.split_spec(source).annotations
        assert annotations is not None
        assert dataset.annotation_format is not None
        for number, fields in read_csv(dataset.root / annotations):
            found[dataset.annotation_format.parse(fields, number).key.video].append(fields)
    return found


def _counts(key_frames: Iterable[AnnotatedKeyFrame]) -> dict[str, Counter[int]]:
    found: dict[str, Counter[int]] = defaultdict(Counter)
    for item in key_frames:
        found[item.key.video][KEY_FRAMES] += 1
        for labels in item.labels:
            found[item.key.video].update(labels)
    return found
