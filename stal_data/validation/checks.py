"""Validation of a data set: each split's files, its key frames against the media, then splits against each other."""

from collections.abc import Callable, Iterator, Sequence
from os.path import realpath  # Path.resolve raises RuntimeError for links in a circle
from pathlib import Path

from stal_data.amounts import amount
from stal_data.annotations import group_rows
from stal_data.dataset import Dataset
from stal_data.dataset_spec import SplitSpec
from stal_data.errors import StalError
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame
from stal_data.rows import RowProblem, read_keys
from stal_data.validation.findings import Counts, Finding, Report
from stal_data.validation.media_checks import MediaChecker
from stal_data.validation.row_checks import CheckedRows, RowChecker, unused_classes

Progress = Callable[[str], None]


def validate(
    dataset: Dataset, *, splits: Sequence[str] | None = None, decode: bool = False, progress: Progress | None = None
) -> Report:
    """Check the named splits (all by default).

    decode: decode every frame that a clip needs, not only look whether it is there; slow, finds damaged files.
    progress: called with the name of each split when its turn comes.
    """
    findings: list[Finding] = []
    counts: list[Counts] = []
    videos: dict[str, set[str]] = {}
    for name in splits or dataset.split_names:
        if progress is not None:
            progress(name)
        checker = _SplitChecker(dataset, name, dataset.split_spec(name), decode)
        try:
            findings.extend(checker.run())
        except StalError as error:  # a file that cannot be read at all: the other splits are still worth a look
            findings.append(Finding(split=name, severity="error", rule="file", path=dataset.path, message=str(error)))
            continue
        counts.append(checker.counts())
        videos[name] = {item.key.video for item in checker.key_frames}
    findings.extend(_left_out(dataset))
    findings.extend(_shared_videos(dataset.path, videos))
    return Report(findings=tuple(findings), counts=tuple(counts))


class _SplitChecker:
    """Checks one split; afterwards key_frames holds what could be read of it."""

    def __init__(self, dataset: Dataset, name: str, spec: SplitSpec, decode: bool) -> None:
        self.key_frames: tuple[AnnotatedKeyFrame, ...] = ()
        self._exclusions: set[KeyFrame] = set()
        self._dataset, self._name, self._spec, self._decode = dataset, name, spec, decode

    def counts(self) -> Counts:
        return Counts.of_key_frames(self._name, self.key_frames, len(self._exclusions), self._dataset.label_map)

    def run(self) -> Iterator[Finding]:
        if self._spec.exclusions is not None:
            yield from self._read_exclusions(self._dataset.root / self._spec.exclusions)
        if self._spec.annotations is not None:
            yield from self._check_annotated(self._dataset.root / self._spec.annotations)
        else:
            yield from self._check_videos()

    def _read_exclusions(self, path: Path) -> Iterator[Finding]:
        for line, key in read_keys(path, self._dataset.annotation_format):
            if isinstance(key, RowProblem):
                yield Finding(
                    split=self._name, severity="error", rule=key.rule, path=path, line=line, message=key.message
                )
            else:
                self._exclusions.add(key)

    def _check_annotated(self, path: Path) -> Iterator[Finding]:
        spec, label_map = self._dataset.spec, self._dataset.label_map
        annotation_format = self._dataset.annotation_format
        assert annotation_format is not None
        assert label_map is not None
        drop = spec.unknown_labels == "drop"
        rows = RowChecker(self._name, path, label_map, drop_unknown_labels=drop)
        checked = rows.check(annotation_format)
        yield from rows.findings
        self.key_frames = tuple(
            item for item in group_rows(checked.rows, label_map) if item.key not in self._exclusions
        )
        yield from self._check_empty(path)
        yield from unused_classes(self._name, path, self.key_frames, label_map)
        yield from self._check_media(path, checked)

    def _check_videos(self) -> Iterator[Finding]:
        for video in self._dataset.split_videos(self._name):
            try:
                self._dataset.media.info(video)
            except StalError as error:
                yield Finding(
                    split=self._name, severity="error", rule="media", path=self._dataset.path, message=str(error)
                )
                return
        self.key_frames = self._dataset.split(self._name).key_frames
        yield from self._check_media(self._dataset.path, CheckedRows())

    def _check_media(self, path: Path, checked: CheckedRows) -> Iterator[Finding]:
        checker = MediaChecker(self._name, path, checked.lines, self._dataset.media, decode=self._decode)
        yield from checker.check(self.key_frames)

    def _check_empty(self, path: Path) -> Iterator[Finding]:
        if not self.key_frames:
            yield Finding(
                split=self._name,
                severity="error",
                rule="empty",
                path=path,
                message=f"split '{self._name}' has no usable key frame: add rows, or correct the ones named above.",
            )


def _left_out(dataset: Dataset) -> Iterator[Finding]:
    try:
        left_out = dataset.media.left_out()
    except StalError:
        return  # each split has named it
    splits = dataset.spec.splits.values()
    names = [dataset.spec.label_map, *(name for split in splits for name in (split.annotations, split.exclusions))]
    own = {realpath(dataset.path), *(realpath(dataset.root / name) for name in names if name is not None)}
    for path, reason in left_out:
        if realpath(path) in own:
            continue
        text = f"{path.name} is left out, since it is {reason}. If it is a video, name it under media.files."
        yield Finding(split="", severity="warning", rule="left-out", path=path.parent, message=text)


def _shared_videos(path: Path, videos: dict[str, set[str]]) -> Iterator[Finding]:
    names = list(videos)
    for position, first in enumerate(names):
        for second in names[position + 1 :]:
            shared = sorted(videos[first] & videos[second])
            if shared:
                yield Finding(
                    split="",
                    severity="warning",
                    rule="shared-videos",
                    path=path,
                    message=f"{amount(len(shared), 'video')} in both '{first}' and '{second}' ({', '.join(shared[:5])}"
                    f"{', ...' if len(shared) > 5 else ''}): scores on one say little after training on the other.",
                )
