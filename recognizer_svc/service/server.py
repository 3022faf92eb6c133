"""The recognizer service as a process: the store, the jobs, the scoring thread, behind one port."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc

from cache.store import Store
from protos.generated import recognizer_pb2 as pb
from protos.generated import recognizer_pb2_grpc as pb_grpc
from recognizer_svc.scoring.metrics import ScoringMetrics
from recognizer_svc.scoring.micro_batch import MAX_CALLS
from recognizer_svc.scoring.scoring_thread import Scoring
from recognizer_svc.service.jobs import JobManager
from recognizer_svc.service.limits import JobLimits
from recognizer_svc.service.metrics import JobMetrics
from recognizer_svc.service.servicer import RecognizerServicer
from recognizer_svc.video.video_scoring import MAX_STREAMS
from svc_common.config import ServerConfig
from svc_common.metrics import Metrics
from svc_common.server import ServiceServer

if TYPE_CHECKING:
    from cache.backbones.load import LoadedBackbone

_ENDING_S = 35.0
"""The most that it takes, beside the time for the checkpoints, to end the jobs and to record that."""


@dataclass(frozen=True, kw_only=True)
class RecognizerConfig:
    """What the operator chooses."""

    store: Store
    limits: JobLimits = field(default_factory=JobLimits)
    device: str = "auto"
    """Of the scoring, as torch names it; auto = CUDA where there is some. Training takes the devices that it finds."""
    max_requests: int = 16
    """Scoring calls in progress; more are refused."""
    max_batch: int = MAX_CALLS
    """Recognize calls that may share a pass of the head; 1 computes each alone."""
    backbones: "tuple[Callable[[], LoadedBackbone], ...]" = ()
    """What loads the backbones with which features of videos are computed; each once."""
    thresholds: Mapping[str, Mapping[int, float]] = field(default_factory=dict)
    """Of packed models: the score from which an action counts, by run id and label id."""
    max_streams: int = MAX_STREAMS
    """Videos that are scored at once; more are refused."""
    max_kept: int = 0
    """Key frames of a video whose features a client may have written to the store; 0 refuses that."""
    cancel_jobs: bool = False
    """At the end cancel the jobs, each with a checkpoint, instead of leaving them to the next service."""


class RecognizerService:
    """The life cycle that svc_common's server drives."""

    full_name = pb.DESCRIPTOR.services_by_name["Recognizer"].full_name

    def __init__(self, config: RecognizerConfig, metrics: Metrics) -> None:
        self._config = config
        self._jobs = JobManager(config.store, config.limits)
        metrics.registry.register(JobMetrics(self._jobs))
        self._scoring = Scoring(
            config.store,
            device=config.device,
            max_requests=config.max_requests,
            max_batch=config.max_batch,
            max_streams=config.max_streams,
            metrics=ScoringMetrics(metrics.registry),
        )
        self._scoring.video.thresholds = config.thresholds
        self._watches: list[asyncio.Task[None]] = []

    def register(self, server: grpc.aio.Server) -> None:
        servicer = RecognizerServicer(self._config.store, self._jobs, self._scoring, max_kept=self._config.max_kept)
        pb_grpc.add_RecognizerServicer_to_server(servicer, server)

    async def start(self) -> list[asyncio.Task[None]]:
        self._scoring.warm_up()
        await self._jobs.recover()
        if self._config.backbones:
            await self._scoring.video.hold(self._config.backbones)
        self._watches = self._scoring.watch()
        return self._watches

    async def drain(self) -> None:
        self._scoring.video.drain()
        await self._jobs.drain(cancel_jobs=self._config.cancel_jobs)

    async def stop(self) -> None:
        await self._jobs.stop()
        for watch in self._watches:
            watch.cancel()
        await asyncio.to_thread(self._scoring.close)


async def serve(server: ServerConfig, config: RecognizerConfig) -> None:
    """Serve until SIGTERM or SIGINT."""
    metrics = Metrics()
    drain_s = config.limits.stop_timeout_s + _ENDING_S if config.cancel_jobs else 0.0
    service = RecognizerService(config, metrics)
    await ServiceServer(server, [service], name="recognizer", metrics=metrics, drain_s=drain_s).serve()
