"""The features of a video on their way to the store: the set that precompute would make. No torch here."""

from bisect import bisect_right
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cache.feature_store import FeatureWriter, RowIndex
from cache.feature_store.writer import balanced_rows_per_shard
from cache.proposal_store import DetectorSpec, Proposals, open_proposals, write_proposals
from cache.split_store import load_split, publish_split
from cache.store import Store
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.video.key_frames import ComputedRows
from recognizer_svc.video.timeline import KEPT_TOGETHER, VideoTime
from recognizer_svc.video.video_scoring import OpenVideo
from stal_data.dataset import SplitContent
from stal_data.errors import ConflictError, InputError, NotFoundError
from stal_data.keyframes import AnnotatedKeyFrame, KeyFrame
from stal_data.names import check_name, check_video_id
from svc_common.errors import BusyError

_MAX_DECODER = 200


class KeptFeatures:
    """Writes each shard, and its people as proposals, once all of it is there. Its key frames are answered after that,
    so that a stream that goes on behind the last answer completes the set.

    To make one and to `write` takes as long as the store does; one thread at a time may.
    """

    def __init__(
        self, store: Store, limit: int, keep: pb.KeptFeatures, time: VideoTime, video: OpenVideo, answered: int | None
    ) -> None:
        """Make the set, or find the one to go on with; an error where the names are those of other content.

        limit: of the number of key frames. answered: those up to this time, in ms, were answered by streams before.
        """
        self._store, self._keep, self._name = store, keep, f"{keep.dataset}/{keep.split}"
        self._keys = keys = _key_frames(keep, time, limit)
        self._row_of = {key: row for row, key in enumerate(keys)}
        self._check_split()
        self._people = self._filed_people() if keep.proposals else []
        self._filed = len(self._people)
        self._writer = FeatureWriter.open(
            store,
            dataset=keep.dataset,
            split=keep.split,
            spec=replace(video.source.spec, decoder=keep.decoder),
            index=RowIndex(
                key_frames=keys,
                windows_K2=np.array([time.window_of(key.time_ms) for key in keys], np.int64),
                sources_K=np.array(keep.sources, np.uint64),
            ),
            shapes=video.source.shapes,
            rows_per_shard=balanced_rows_per_shard(len(keys), KEPT_TOGETHER),
        )
        self._manifest = self._writer.manifest
        self._pending = set(self._writer.pending())
        self._next = 0 if answered is None else bisect_right(keep.times_ms, answered)
        """Row of the key frame that comes next; the first one may be before it."""
        self._begun = False
        self._shard = self._next // self._manifest.rows_per_shard
        """The first whose key frames may not be answered yet."""
        self._check_answered()
        publish_split(store, _split(keep, keys))

    @property
    def complete(self) -> bool:
        return self._shard == self._manifest.num_shards

    def take(self, key: KeyFrame, boxes_N4: NDArray[np.float32]) -> bool:
        """Take note of the key frame that has come; return whether its features are needed even if nobody is there."""
        row = self._row_of.get(key, len(self._keys))
        if row != self._next and (self._begun or row > self._next):
            due = self._keys[self._next] if self._next < len(self._keys) else "none"
            raise InputError(f"Key frame {key} was sent, but the next one of keep.times_ms is {due}; leave none out.")
        if self._keep.proposals and row == len(self._people):
            self._people.append(boxes_N4)
        self._next, self._begun = row + 1, True  # last, for `write`
        return row // self._manifest.rows_per_shard in self._pending

    def due(self, computed: ComputedRows) -> bool:
        """Return whether all key frames of the next shard have come, and have the features that it lacks."""
        if self.complete:
            return False
        rows = self._manifest.rows_of(self._shard)
        lacks = self._shard in self._pending and any(key not in computed for key in self._keys[rows.start : rows.stop])
        return self._next >= rows.stop and not lacks

    def write(self, computed: ComputedRows) -> None:
        """Write the next shard, which is due."""
        rows = self._manifest.rows_of(self._shard)
        if self._shard in self._pending:
            if (claim := self._writer.claim(self._shard)) is None:
                raise BusyError(f"the features are being written by {self._writer.owner(self._shard)}, too")
            with claim:
                if self._writer.is_pending(self._shard):
                    self._file_people(rows.stop)
                    keys = self._keys[rows.start : rows.stop]
                    self._writer.write_shard(claim, computed.read([computed.row_of(key) for key in keys]))
        self._file_people(rows.stop)
        self._shard += 1

    def may_answer(self, key: KeyFrame) -> bool:
        return self._row_of[key] < self._shard * self._manifest.rows_per_shard

    def _check_split(self) -> None:
        try:
            there = load_split(self._store, self._keep.dataset, self._keep.split)
        except NotFoundError:
            return
        keys = tuple(item.key for item in there.key_frames)
        if there.annotated or there.exclusions or there.label_map is not None or keys != self._keys:
            raise ConflictError(
                f"The store's split {self._name} has labels or other key frames; choose other names for keep."
            )

    def _check_answered(self) -> None:
        size = self._manifest.rows_per_shard
        if self._pending and size > KEPT_TOGETHER:
            raise ConflictError(
                f"The features of {self._name} are not complete, and {size} key frames are written at a time, but only "
                f"{KEPT_TOGETHER} can wait for their answers: let precompute complete them."
            )
        lost = [row for shard in self._pending if (row := shard * size) < self._next]
        if self._keep.proposals and self._filed < self._next:
            lost.append(self._filed)
        if lost:
            raise ConflictError(
                f"Key frame {self._keys[min(lost)]} was answered (answered_ms), but not kept in {self._name}. Send the "
                "video from its beginning."
            )

    def _filed_people(self) -> list[NDArray[np.float32]]:
        """Return the boxes of the first key frames, perhaps of all, that are proposals already."""
        try:
            found = open_proposals(self._store, self._keep.dataset, self._keep.split, self._keep.proposals)
        except NotFoundError:
            return []
        if found.key_frames != self._keys[: len(found.key_frames)]:
            raise ConflictError(f"The proposals '{self._keep.proposals}' of {self._name} are of other key frames.")
        return [found.of(key)[0] for key in found.key_frames]

    def _file_people(self, count: int) -> None:
        """Write those of the first key frames, unless they are written."""
        if not self._keep.proposals or self._filed >= count:
            return
        boxes_N4 = np.concatenate(self._people[:count])
        proposals = Proposals(
            dataset=self._keep.dataset,
            split=self._keep.split,
            key_frames=self._keys[:count],
            offsets_K1=np.cumsum([0, *map(len, self._people[:count])], dtype=np.int64),
            boxes_N4=boxes_N4,
            scores_N=np.full(len(boxes_N4), np.nan, np.float32),
            detector=DetectorSpec(
                name=self._keep.proposals, weights="unknown", height=0, width=0, confidence=0, library="RecognizeVideo"
            ),
        )
        write_proposals(self._store, proposals)
        self._filed = count


def _key_frames(keep: pb.KeptFeatures, time: VideoTime, limit: int) -> tuple[KeyFrame, ...]:
    """Return the set's key frames, after a check of all that is said of them."""
    if not limit:
        raise ConflictError("The service writes no features of videos to its store; start it with --keep-features.")
    for field, name in (("dataset", keep.dataset), ("split", keep.split), ("proposals", keep.proposals or "none")):
        check_name(f"keep.{field}", name)
    count = len(keep.times_ms)
    if not 0 < count <= limit:
        raise InputError(f"keep.times_ms has {count} key frames, but must have 1 to {limit} (--keep-features).")
    if sorted(set(keep.times_ms)) != list(keep.times_ms):
        raise InputError("keep.times_ms must be in the order of time, each once.")
    if len(keep.sources) != count:
        raise InputError(f"keep.sources has {len(keep.sources)} digests, but must have one for each of {count} times.")
    if not 0 < len(keep.decoder) <= _MAX_DECODER:
        raise InputError(f"keep.decoder has {len(keep.decoder)} characters, but must have 1 to {_MAX_DECODER}.")
    if time.num_frames is None:
        raise InputError("num_frames is not set, but must be known where keep is set.")
    if check_video_id("video", time.video) != time.video:
        raise InputError(f"video is {time.video!r}, but must be in Unicode's composed form (NFC) where keep is set.")
    return tuple(KeyFrame(time.video, time_ms) for time_ms in keep.times_ms)


def _split(keep: pb.KeptFeatures, keys: tuple[KeyFrame, ...]) -> SplitContent:
    nobody = np.zeros((0, 4), np.float32)
    return SplitContent(
        dataset=keep.dataset,
        name=keep.split,
        key_frames=tuple(
            AnnotatedKeyFrame(key=key, window=None, boxes_N4=nobody, labels=(), persons=()) for key in keys
        ),
        exclusions=frozenset(),
        annotated=False,
        label_map=None,
    )
