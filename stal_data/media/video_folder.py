"""Which files of a folder are videos, and which are left out and why."""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stal_data.errors import InputError

EXTENSIONS = {
    *(".3g2", ".3gp", ".3gpp", ".amv", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".h264", ".h265", ".hevc"),
    *(".264", ".265", ".ivf", ".m1v", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4"),
    *(".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob"),
    *(".webm", ".wmv", ".wtv", ".y4m"),
}


@dataclass(frozen=True, slots=True)
class VideoFolder:
    """videos: sorted paths. left_out: everything else but hidden files, each with the reason."""

    videos: tuple[Path, ...]
    left_out: tuple[tuple[Path, str], ...]


def scan_folder(folder: Path) -> VideoFolder:
    """Look at the files of a folder, not at those of folders inside."""
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    reasons = [(path, _why_left_out(path)) for path in entries]
    return VideoFolder(
        tuple(path for path, reason in reasons if reason is None),
        tuple((path, reason) for path, reason in reasons if reason is not None),
    )


def _why_left_out(path: Path) -> str | None:
    if path.is_dir():
        return "a folder, which is not looked into"
    if path.is_symlink() and not path.exists():
        return "a broken link"
    if not path.is_file():
        return "no regular file"
    return None if path.suffix.lower() in EXTENSIONS else "no video by its ending"


def video_id_of(path: Path) -> str:
    """Return the id of a video file: its name without the ending, in Unicode's composed form (NFC)."""
    return unicodedata.normalize("NFC", path.stem)


def by_video_id(paths: Iterable[Path]) -> dict[str, Path]:
    """Return the paths by video id; two with one id are an error."""
    files: dict[str, Path] = {}
    for path in paths:
        video = video_id_of(path)
        if video in files:
            raise InputError(
                f"{files[video]} and {path} would both be video '{video}' (the name without its ending): "
                "rename one, or give each an id under media.files in dataset.yaml."
            )
        files[video] = path
    return files
