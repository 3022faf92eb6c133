"""The stage of `infer` that has people detected and scored by running services; this machine decodes the videos."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing, nullcontext
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from cache.proposal_store import read_proposals
from cache.spec import ClipSpec
from cli.ui.progress import counted
from cli.workflow.detect_stage import Detector, detect
from cli.workflow.fingerprints import Unchanged, digest_of
from cli.workflow.stages import Product, Stages
from cli.workflow.stored_names import stored_name
from cli.workflow.streaming.kept_key_frames import KeptKeyFrames
from cli.workflow.streaming.pipeline import SeenKeyFrame, only_run, seen_key_frames
from detector_svc.client.detector_client import DetectorClient, DetectorClientConfig, model_of
from detector_svc.detections import FrameDetections
from protos.generated import recognizer_pb2 as pb
from recognizer_svc.client import RecognizerClient
from recognizer_svc.scoring.predictions_csv import writing_predictions
from recognizer_svc.video.client import Sending, VideoItem, VideoRequest
from recognizer_svc.video.timeline import VideoTime, reach_ms
from stal_data.dataset import Dataset, Split
from stal_data.errors import ConflictError
from stal_data.labels import Label, LabelMap
from stal_data.media import Media
from stal_data.media.timeline import frame_at
from stal_data.own_videos import SPLIT
from svc_common.config import ClientConfig
from svc_common.errors import ServiceError

_READ_FRAMES, _READ_BYTES = 8, 64 << 20
"""At a time, at most; as many again are decoded while they are sent."""


@dataclass(kw_only=True)
class ServiceScoring:
    """By services; what it has in common with StoreScoring is described there.

    store: for the people that the detector follows; not touched where it follows nobody. run_id: of the recognizers;
    "" where they have but one. sending: see `recognizer_svc.video.client.Sending`. keep_features: in the
    recognizers' store, with the people.
    """

    store: Path
    detector: Detector
    recognizers: tuple[ClientConfig, ...]
    run_id: str
    sending: Sending
    keep_features: bool
    fuse_confidence: bool
    files: tuple[Path, ...] = ()
    _header: pb.VideoHeader = field(init=False)
    _model: Mapping[str, str | float] = field(init=False)

    @property
    def thresholds(self) -> Mapping[int, float]:
        return dict(sorted(self._header.thresholds.items()))

    def check(self) -> None:
        self._detector = DetectorClient(DetectorClientConfig(services=self.detector.services))
        self._model, self._header = asyncio.run(self._ask())
        self.run_id = self._header.model.run_id
        for note in self._header.notes:
            click.echo(f"Note: {note}", err=True)

    def ready(self, output: Path) -> AbstractContextManager[LabelMap]:  # noqa: ARG002
        return nullcontext(LabelMap(Label(label.id, label.name) for label in self._header.model.labels))

    def score(
        self,
        stages: Stages,
        video: str,
        *,
        dataset: Path,
        predictions: Path,
        content: Mapping[str, str],
        watched: Unchanged,
    ) -> Path | None:
        head, unfinished = self._header, stages.root / "recognize.unfinished"
        sizes = [[size.height, size.width] for size in head.sizes]
        inputs = {**content, "detector": digest_of(self._model), "head": digest_of([head.model.digest, sizes])}
        proposals, tracked = None, dict[int, FrameDetections]()
        if self.detector.track:
            # Who is who shows only in hindsight, and the head looks for people by their ids.
            proposals = detect(
                stages,
                self.detector,
                None,
                folder=dataset,
                store=self.store,
                dataset=Dataset.open(dataset).name,
                split=SPLIT,
                inputs=content,
                watched=watched,
            )
            inputs["proposals"] = stages.digest(proposals)
            tracked = _people(proposals)
        asked = ["--run", self.run_id, "--frames", self.sending, *["--keep-features"] * self.keep_features]

        def work() -> None:
            split = Dataset.open(dataset).split(SPLIT)
            made_from = {**inputs, "asked": asked, "decoder": split.media.decoder, "stal": version("stal")}
            with KeptKeyFrames(unfinished, video, made_from) as kept:
                for time_ms in sorted(tracked.keys() - kept.people.keys()):
                    kept.add_people(time_ms, tracked[time_ms])
                try:
                    asyncio.run(self._score(split, video, kept, kept.people | tracked))
                except ServiceError as error:
                    raise type(error)(
                        f"{error}\nThe answers for {video} so far are kept: the same command goes on with the rest."
                    ) from error
                try:
                    watched.check(" Delete what was kept of it ('cache prune')." if self.keep_features else "")
                except ConflictError:
                    kept.remove()
                    raise
                self._write(predictions, kept)

        fused = ["--fuse-confidence"] if self.fuse_confidence else []
        stages.make("recognize", work, asked=[*asked, *fused], inputs=inputs, products=[Product(predictions)])
        unfinished.unlink(missing_ok=True)
        return proposals

    async def _ask(self) -> tuple[Mapping[str, str | float], pb.VideoHeader]:
        async def nothing() -> AsyncGenerator[VideoItem]:
            return
            yield

        model = model_of(await self._detector.info())
        async with RecognizerClient(*self.recognizers) as recognizer:
            run_id = self.run_id or await only_run(recognizer)
            async for answer in recognizer.recognize_video(VideoRequest(run_id=run_id), nothing()):
                if isinstance(answer, pb.VideoHeader):
                    return model, answer
        raise ServiceError("The recognizer ended a stream without its header.")

    async def _score(self, split: Split, video: str, kept: KeptKeyFrames, known: Mapping[int, FrameDetections]) -> None:
        info, head = split.media.info(video), self._header
        time = VideoTime(video=video, start_s=info.start_s, num_frames=info.num_frames)
        times_ms = [item.key.time_ms for item in split.key_frames if item.key.video == video]
        rest = [time_ms for time_ms in times_ms if kept.answered_ms is None or time_ms > kept.answered_ms]
        if kept.num_answered:
            click.echo(f"  recognize: {kept.num_answered} of {len(times_ms)} key frames have their answers", err=True)
        if not rest:
            return
        first_ms = rest[0] - reach_ms(head.model.neighbours, head.model.neighbour_ms, head.model.bank_s)
        by_frame = {frame_at(time_ms, video, info): time_ms for time_ms in times_ms if time_ms >= first_ms}
        clip = ClipSpec(num_frames=head.clip_span, stride=head.clip_stride)
        first = min(time.clip_of(min(by_frame.values()), clip))
        keep = self._keep(split, time, times_ms, clip) if self.keep_features else None
        with counted("recognize", unit="key frames") as show:
            async with (
                RecognizerClient(*self.recognizers) as recognizer,
                aclosing(_frames(split.media, video, first)) as frames,
                aclosing(
                    seen_key_frames(
                        frames,
                        by_frame.get,
                        detector=self._detector,
                        recognizer=recognizer,
                        video=VideoRequest(
                            run_id=self.run_id,
                            time=time,
                            sending=self.sending,
                            keep=keep,
                            answered_ms=kept.answered_ms,
                        ),
                        known=known,
                        detected=kept.add_people,
                    )
                ) as answers,
            ):
                done = 0
                async for answer in answers:
                    if isinstance(answer, SeenKeyFrame):
                        kept.add_scores(answer.scored)
                        done += 1
                        show(done, len(rest))
                    elif answer.model.digest != head.model.digest:
                        raise ConflictError(
                            f"The recognizer scores with another head of {self.run_id} than when this command began; "
                            "run it again."
                        )
        if keep is not None:
            options = f"--dataset {keep.dataset} --split {keep.split} --boxes proposals:{keep.proposals}"
            click.echo(f"  recognize: kept in the recognizer's store; other runs: 'predict {options}'", err=True)

    def _keep(self, split: Split, time: VideoTime, times_ms: Sequence[int], clip: ClipSpec) -> pb.KeptFeatures:
        """Under the names that the data set has here, and with what precompute would say of it."""
        stem, decoder = str(self._model["name"]), split.media.decoder
        return pb.KeptFeatures(
            dataset=split.dataset,
            split=split.name,
            decoder=decoder,
            times_ms=times_ms,
            sources=[split.media.digest(time.video, time.clip_of(time_ms, clip)) for time_ms in times_ms],
            proposals=stored_name(stem, [self._model, decoder, version("stal"), self.detector.track]),
        )

    def _write(self, predictions: Path, kept: KeptKeyFrames) -> None:
        with writing_predictions(predictions, tuple(label.id for label in self._header.model.labels)) as writer:
            for item, confidence_N in kept.scored():
                fused_NC = item.scores_NC * confidence_N[:, None]
                writer.write(replace(item, scores_NC=fused_NC) if self.fuse_confidence else item)


def _people(proposals: Path) -> dict[int, FrameDetections]:
    """Read the people of the one video, by time in ms."""
    found, people = read_proposals(proposals), dict[int, FrameDetections]()
    for key in found.key_frames:
        boxes_N4, scores_N = found.of(key)
        people[key.time_ms] = FrameDetections(boxes_N4=boxes_N4, scores_N=scores_N, persons_N=found.track_ids_of(key))
    return people


async def _frames(media: Media, video: str, first: int) -> AsyncGenerator[tuple[int, NDArray[np.uint8]]]:
    """Yield numbers and pictures from frame `first` on; some are decoded while those before are worked on."""
    info = media.info(video)
    size = max(1, min(_READ_FRAMES, _READ_BYTES // (3 * info.width * info.height)))
    parts = [range(start, min(start + size, info.num_frames + 1)) for start in range(first, info.num_frames + 1, size)]
    reading = asyncio.create_task(asyncio.to_thread(media.read, video, parts[0]))
    try:
        for numbers, following in zip_longest(parts, parts[1:]):
            pictures_THW3 = await reading
            if following is not None:
                reading = asyncio.create_task(asyncio.to_thread(media.read, video, following))
            for number, picture_HW3 in zip(numbers, pictures_THW3, strict=True):
                yield number, picture_HW3
    finally:
        reading.cancel()
