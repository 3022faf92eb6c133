"""Person boxes of one split made by one detector: one HDF5 file, written once and replaced as a whole."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache import h5
from cache.files import replacing
from cache.frame_boxes import check_frame_boxes
from cache.store import Store
from cache.tracks import Tracks, read_tracks, write_tracks
from stal_data.errors import InputError, NotFoundError, did_you_mean
from stal_data.keyframes import KeyFrame
from stal_data.names import check_name

KIND = h5.Kind(name="proposals", version=2, way_out="Run 'stal-cli detect' on the split again.")


@dataclass(frozen=True, kw_only=True)
class DetectorSpec:
    """What made the boxes.

    weights: digest of the detector's weights, `sha256:<hex>`.
    height, width: pixels of the detector's input.
    confidence: boxes below it were dropped, in [0,1].
    library: name and version of the code that ran the detector.
    """

    name: str
    weights: str
    height: int
    width: int
    confidence: float
    library: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Proposals:
    """Boxes of a split. The boxes of key frame k are rows offsets_K1[k] to offsets_K1[k + 1], end exclusive.

    key_frames: every key frame the detector saw, also those without a box; sorted, no repeats.
    boxes_N4: float32 x1,y1,x2,y2 in [0,1] of the frame, x1 <= x2 and y1 <= y2.
    scores_N: float32 confidence in [0,1], NaN where it is unknown.
    tracks: None where nobody was tracked.
    """

    dataset: str
    split: str
    key_frames: tuple[KeyFrame, ...]
    offsets_K1: NDArray[np.int64]
    boxes_N4: NDArray[np.float32]
    scores_N: NDArray[np.float32]
    detector: DetectorSpec
    tracks: Tracks | None = None

    def __post_init__(self) -> None:
        if any(a >= b for a, b in pairwise(self.key_frames)):
            raise InputError("Proposals need sorted key frames without repeats.")
        check_frame_boxes(self.key_frames, self.offsets_K1, self.boxes_N4, self.scores_N)
        if self.tracks is not None:
            self.tracks.check_ids(len(self.boxes_N4))

    @cached_property
    def _row_of(self) -> dict[KeyFrame, int]:
        return {key: row for row, key in enumerate(self.key_frames)}

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of split, key frames, boxes, scores and track ids, whatever found them."""
        digest = hashlib.sha256(json.dumps([self.dataset, self.split, [str(key) for key in self.key_frames]]).encode())
        for values, dtype in ((self.offsets_K1, "<i8"), (self.boxes_N4, "<f4"), (self.scores_N, "<f4")):
            digest.update(values.astype(dtype).tobytes())
        if self.tracks is not None:
            digest.update(self.tracks.ids_N.astype("<i8").tobytes())
        return digest.hexdigest()

    def of(self, key: KeyFrame) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return boxes [n,4] and scores [n] of one key frame; n may be 0."""
        rows = self._rows(key)
        return self.boxes_N4[rows], self.scores_N[rows]

    def track_ids_of(self, key: KeyFrame) -> NDArray[np.int64] | None:
        """Return the track ids [n] of one key frame's boxes, see `Tracks`; None where nobody was tracked."""
        return None if self.tracks is None else self.tracks.ids_N[self._rows(key)]

    def _rows(self, key: KeyFrame) -> slice:
        row = self._row_of.get(key)
        if row is None:
            raise NotFoundError(
                f"Key frame {key} is not among the {len(self.key_frames)} of the proposals '{self.detector.name}' of "
                f"{self.dataset}/{self.split}; run 'stal-cli detect' on this split."
            )
        return slice(int(self.offsets_K1[row]), int(self.offsets_K1[row + 1]))


def write_proposals(store: Store, proposals: Proposals) -> Path:
    """Write `<detector name>.h5` of the split atomically, replacing an older one; returns its path."""
    check_name("detector.name", proposals.detector.name)
    path = store.proposals_dir(proposals.dataset, proposals.split) / f"{proposals.detector.name}.h5"
    with replacing(path) as partial, h5.creating(partial, KIND) as file:
        file.attrs["dataset"] = proposals.dataset
        file.attrs["split"] = proposals.split
        for field, value in asdict(proposals.detector).items():
            file.attrs[f"detector.{field}"] = value
        h5.write_keys(file.create_group("key_frames"), proposals.key_frames)
        file.create_dataset("offsets", data=proposals.offsets_K1, dtype="i8")
        file.create_dataset("boxes", data=proposals.boxes_N4, dtype="f4")
        file.create_dataset("scores", data=proposals.scores_N, dtype="f4")
        if proposals.tracks is not None:
            write_tracks(file, proposals.tracks)
    store.backend.publish(path)
    return path


def read_proposals(path: Path) -> Proposals:
    with h5.reading(path, KIND) as file:
        return Proposals(
            dataset=str(file.attrs["dataset"]),
            split=str(file.attrs["split"]),
            key_frames=h5.read_keys(file, "key_frames"),
            offsets_K1=h5.dataset(file, "offsets")[:],
            boxes_N4=h5.dataset(file, "boxes")[:],
            scores_N=h5.dataset(file, "scores")[:],
            detector=DetectorSpec(
                name=str(file.attrs["detector.name"]),
                weights=str(file.attrs["detector.weights"]),
                height=int(file.attrs["detector.height"]),
                width=int(file.attrs["detector.width"]),
                confidence=float(file.attrs["detector.confidence"]),
                library=str(file.attrs["detector.library"]),
            ),
            tracks=read_tracks(file),
        )


@dataclass(frozen=True, kw_only=True)
class ProposalsInfo:
    """One proposal file of a store."""

    dataset: str
    split: str
    name: str
    num_bytes: int
    path: Path


def list_proposals(store: Store, dataset: str | None = None, split: str | None = None) -> list[ProposalsInfo]:
    """Return the proposals of the store, or of one data set or split, sorted by data set, split and name."""
    store.backend.fetch_proposals(dataset, split)
    return [
        ProposalsInfo(
            dataset=path.parent.parent.name,
            split=path.parent.name,
            name=path.stem,
            num_bytes=path.stat().st_size,
            path=path,
        )
        for path in store.find("proposals", dataset, split, "[!.]*.h5")
    ]


def open_proposals(store: Store, dataset: str, split: str, name: str | None = None) -> Proposals:
    """Read the proposals of one detector; without a name there must be exactly one."""
    found = {info.name: info.path for info in list_proposals(store, dataset, split)}
    names = list(found)
    if name is None:
        if not names:
            raise NotFoundError(
                f"There are no proposals for {dataset}/{split} in '{store.name}'; run 'stal-cli detect' first."
            )
        if len(names) > 1:
            raise InputError(f"{dataset}/{split} has proposals of {', '.join(names)}; name the one to use.")
        name = names[0]
    elif name not in names:
        raise NotFoundError(f"{dataset}/{split} has no proposals named '{name}'. {did_you_mean(name, names)}")
    return read_proposals(found[name])
