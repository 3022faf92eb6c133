"""A data set made of video files, without annotations: every whole second becomes a key frame."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import yaml

from stal_data.dataset import Dataset
from stal_data.dataset_spec import FILE_NAME
from stal_data.errors import ConflictError, InputError, NotFoundError
from stal_data.files import write_atomically
from stal_data.media.video import VideoFiles
from stal_data.media.video_folder import EXTENSIONS, by_video_id, scan_folder
from stal_data.names import check_name

SPLIT = "all"
MAX_NAMED = 100
"""Files of one folder that are named as left out."""


def write_video_dataset(
    output: Path,
    name: str,
    paths: Sequence[Path],
    *,
    progress: Callable[[int, int], None] | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Dataset:
    """Write output/dataset.yaml over the given video files and folders of them; the videos stay where they are.

    Every file is opened and its first picture decoded, so that a bad one is found now.
    progress: called with (videos done, videos in all). note: told what is left out, and what is unusual about a video.
    """
    check_name("--name", name)
    target = output / FILE_NAME
    if target.exists():
        raise ConflictError(f"{output} already holds a data set ({target}): choose another folder, or remove the file.")
    files = by_video_id(_video_files(paths, note))
    media = VideoFiles(files)
    for done, video in enumerate(files, start=1):
        for text in media.info(video).notes:
            note(f"{files[video]}: {text}.")
        if progress is not None:
            progress(done, len(files))
    content = {
        "name": name,
        "media": {"kind": "video", "files": {video: stored_path(path, output) for video, path in files.items()}},
        "splits": {SPLIT: {"videos": "*"}},
    }
    write_atomically(target, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return Dataset.open(output)


def _video_files(paths: Sequence[Path], note: Callable[[str], None]) -> Iterable[Path]:
    for path in paths:
        if not path.exists():
            raise NotFoundError(f"The video {path} does not exist.")
        if not path.is_dir():
            yield path
            continue
        folder = scan_folder(path)
        if not folder.videos:
            raise InputError(f"The folder {path} holds no video file ({', '.join(sorted(EXTENSIONS))}).")
        if folder.left_out:
            named = ", ".join(f"{item.name} ({reason})" for item, reason in folder.left_out[:MAX_NAMED])
            more = len(folder.left_out) - MAX_NAMED
            note(f"Left out of {path}: {named}{f' and {more} more' if more > 0 else ''}. Name what is a video, too.")
        yield from folder.videos


def stored_path(path: Path, output: Path) -> str:
    """Return a path that dataset.yaml can hold: relative when the video lies beside it, else absolute."""
    absolute, folder = path.resolve(), output.resolve()
    return str(absolute.relative_to(folder)) if absolute.is_relative_to(folder) else str(absolute)
