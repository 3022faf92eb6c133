"""matches.npz, beside metrics.json: what a comparison of two results needs. Holds neither scores nor boxes."""

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stal_data.errors import InputError, NotFoundError
from stal_data.user_files import open_regular
from stal_eval.alignment import Alignment
from stal_eval.preparation import Prepared
from stal_eval.protocol import recorded_fields
from stal_eval.result import Evaluation
from stal_eval.selection import select

MATCHES_FILE = "matches.npz"
_FORMAT = 2
_ARRAYS = ("in_mean_K", "truth_VK", "class_offsets", "video_N", "rank_N", "hit_N", "void_N")


@dataclass(frozen=True, kw_only=True)
class Stored:
    """The N rows of a result in class-major order, best first, of K classes and V videos.

    protocol: its fields. ground_truth: sha256 (hex) of the scored rows. capacity: the reported one. in_mean_K: whether
    the protocol counts the class. truth_VK: ground-truth boxes of each video and class. video_N: position in `videos`.
    rank_N: position in the key frame, from 0. hit_N, void_N: right; neither right nor wrong.
    """

    protocol: dict[str, Any]
    ground_truth: str
    split: str
    capacity: int
    classes: tuple[str, ...]
    videos: tuple[str, ...]
    in_mean_K: NDArray[np.bool_]
    truth_VK: NDArray[np.int64]
    class_offsets: NDArray[np.int64]
    video_N: NDArray[np.int32]
    rank_N: NDArray[np.int32]
    hit_N: NDArray[np.bool_]
    void_N: NDArray[np.bool_]


def to_store(prepared: Prepared, result: Evaluation) -> Stored:
    alignment, matching = prepared.alignment, prepared.matching
    if not prepared.protocol.keeps_prefixes:
        matching = select(alignment, matching, prepared.protocol, result.choice.capacity)
    videos = tuple(sorted({key.video for key in alignment.keys}))
    number = {video: position for position, video in enumerate(videos)}
    video_of_key = np.array([number[key.video] for key in alignment.keys], np.int32)
    num_classes = prepared.label_map.num_classes
    truth_VK = np.zeros((len(videos), num_classes), np.int64)
    for rows in (alignment.ground_truth, alignment.recalled_truth):
        np.add.at(truth_VK, (video_of_key[rows.key_N], rows.class_N), 1)
    return Stored(
        protocol=prepared.protocol.describe(),
        ground_truth=_digest(alignment),
        split=str(prepared.split),
        capacity=result.choice.capacity,
        classes=prepared.label_map.names,
        videos=videos,
        in_mean_K=~np.isnan(result.reported.ap_CK[0]),
        truth_VK=truth_VK,
        class_offsets=matching.class_offsets,
        video_N=video_of_key[alignment.predictions.key_N[matching.row_N]],
        rank_N=matching.rank_N,
        hit_N=matching.hit_N,
        void_N=matching.void_N,
    )


def _digest(alignment: Alignment) -> str:
    """Digest the ground truth that counts; the order and the compression of its file make no difference."""
    digest = hashlib.sha256()
    for rows in (alignment.ground_truth, alignment.recalled_truth):
        # Numbers of key frames depend on the predictions.
        numbers = sorted(np.unique(rows.key_N).tolist(), key=alignment.keys.__getitem__)
        digest.update("".join(f"{alignment.keys[number]}\n" for number in numbers).encode())
        place = np.zeros(alignment.num_keys, np.int64)
        place[numbers] = np.arange(len(numbers))
        table = np.column_stack([place[rows.key_N], rows.class_N, rows.boxes_N4])
        digest.update(table[np.lexsort(table.T)].tobytes())
    return digest.hexdigest()


def matches_content(prepared: Prepared, result: Evaluation) -> bytes:
    """Return the content of matches.npz."""
    stored = to_store(prepared, result)
    about = {
        "format": _FORMAT,
        "protocol": stored.protocol,
        "ground_truth": stored.ground_truth,
        "split": stored.split,
        "capacity": stored.capacity,
        "classes": stored.classes,
        "videos": stored.videos,
    }
    arrays = {name: getattr(stored, name) for name in _ARRAYS}
    for name in ("video_N", "rank_N"):
        arrays[name] = arrays[name].astype(np.min_scalar_type(int(arrays[name].max(initial=0))))
    content = io.BytesIO()
    np.savez_compressed(content, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)
    return content.getvalue()


def read_matches(folder: Path | str) -> Stored:
    """Read the matches.npz of an output folder of `stal-cli eval`."""
    path = Path(folder) / MATCHES_FILE
    try:
        with open_regular(path) as file, np.load(file, allow_pickle=False) as content:
            about = json.loads(content["about"].tobytes())
            arrays = {name: content[name] for name in _ARRAYS}
    except FileNotFoundError:
        raise NotFoundError(
            f"{folder} holds no {MATCHES_FILE}: give a folder that stal-cli eval wrote with --output."
        ) from None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} cannot be read: {error}. Run stal-cli eval again.") from error
    if about.get("format") != _FORMAT:
        raise InputError(f"{path} has format {about.get('format')}, but this version reads {_FORMAT}: score again.")
    return Stored(
        protocol=recorded_fields(about["protocol"]),
        ground_truth=about["ground_truth"],
        split=about["split"],
        capacity=about["capacity"],
        classes=tuple(about["classes"]),
        videos=tuple(about["videos"]),
        **arrays | {name: arrays[name].astype(np.int32) for name in ("video_N", "rank_N")},
    )
