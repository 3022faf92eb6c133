"""YOLO's folders of text files, one for each image: class, centre and size in [0,1], and perhaps a track."""

import re
from collections.abc import Iterator
from pathlib import Path

from stal_data.errors import InputError, shown
from stal_data.formats.fields import BadFieldError, number
from stal_data.formats.sources import Reading, Source, ToolFormat
from stal_data.formats.tracks import FileAnnotations, PersonBox, VideoAnnotations, checked_box, numbered_image
from stal_data.user_files import read_text_bounded
from stal_data.yaml_text import load_yaml

MAX_BYTES = 16 << 20  # 16 MiB
_NUMBER_KEY = re.compile(r"(?m)((?:^|[{,])\s*)(\d{1,9})(?=\s*:)")
_NAMES = ("data.yaml", "classes.txt", "obj.names")


def _read(source: Source, reading: Reading) -> FileAnnotations:
    names = _class_names(source.path)
    videos: dict[str, dict[int, list[PersonBox]]] = {}
    for path in sorted(_label_files(source.path)):
        video, frame = numbered_image(str(path.relative_to(source.path)), reading.first_frame, str(path))
        images = videos.setdefault(video, {})
        if frame in images:
            raise InputError(f"{path} is frame {frame} of video '{video}' once more: keep one of the files.")
        images[frame] = list(_people(path, names))
    found = [VideoAnnotations(name=video, pixels=False, images=images) for video, images in videos.items()]
    return FileAnnotations(videos=found, actions=list(names.values()))


def _people(path: Path, names: dict[int, str]) -> Iterator[PersonBox]:
    for row, line in enumerate(read_text_bounded(path, MAX_BYTES).splitlines(), start=1):
        where, fields = f"{path}, line {row}", line.split()
        if not fields:
            continue
        try:
            values = [number(f"column {column}", text) for column, text in enumerate(fields, start=1)]
        except BadFieldError as error:
            raise InputError(f"{where}: {error}") from None
        if len(fields) not in (5, 6):
            raise InputError(f"{where} is {shown(line)}, but must be: class x y width height, and perhaps a track.")
        if values[0] not in names:
            raise InputError(f"{where}: class {fields[0]} has no name, only {shown(sorted(names))}: add it.")
        if len(values) == 6 and values[5] % 1:
            raise InputError(f"{where}: the track is {fields[5]}, but must be a whole number. Is it a confidence?")
        x, y, width, height = values[1:5]
        box = checked_box(where, x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        yield PersonBox(int(values[5]) if len(values) == 6 else -1, box, (names[int(values[0])],))


def _class_names(root: Path) -> dict[int, str]:
    path = next((root / name for name in _NAMES if (root / name).exists()), None)
    assert path is not None
    if path.suffix != ".yaml":
        lines = (line.strip() for line in read_text_bounded(path, MAX_BYTES).splitlines())
        return dict(enumerate(line for line in lines if line))
    text = _NUMBER_KEY.sub(r'\1"\2"', read_text_bounded(path, MAX_BYTES))  # which other keys of YAML files never are
    content = load_yaml(text, str(path))
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(str(key).isdecimal() for key in names):
        raise InputError(f"{path}: names is {shown(names)}, but must be a list of class names, or a map from numbers.")
    return {int(key): str(name) for key, name in names.items()}


def _label_files(root: Path) -> Iterator[Path]:
    folder = root / "labels" if (root / "labels").is_dir() else root
    return (path for path in folder.rglob("*.txt") if path.name not in _NAMES and path.parent != root)


def _lacks(source: Source) -> str | None:
    if source.kind != "folder":
        return source.lacks_kind("folder")
    if not any((source.path / name).exists() for name in _NAMES):
        return f"the folder has no class names ({', '.join(_NAMES)})"
    return None if any(_label_files(source.path)) else "the folder has no *.txt files in labels/"


YOLO = ToolFormat(name="yolo", lacks=_lacks, read=_read)
