"""Prometheus metrics of scoring and of training jobs."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from recognizer_svc.runs.events import last_step
from recognizer_svc.runs.record import JobStatus
from recognizer_svc.service.jobs import JobManager

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60)
_OF_THE_LAST_STEP = (
    ("progress", "stal_job_progress_ratio", "Steps done, of all"),
    ("loss", "stal_job_loss", "Of the latest steps, mean over actors"),
    ("actors_per_s", "stal_job_actors_per_second", "Of the latest steps"),
    ("data_wait", "stal_job_data_wait_ratio", "Share of the latest steps spent waiting for features"),
)


class ScoringMetrics:
    """Of the scoring thread."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.queue_s = Histogram(
            "stal_scoring_queue_seconds", "Wait of a piece of work for the thread", buckets=_SECONDS, registry=registry
        )
        self.compute_s = Histogram(
            "stal_scoring_compute_seconds", "Time of a piece of work", ["call"], buckets=_SECONDS, registry=registry
        )
        self.batch_size = Histogram(
            "stal_scoring_batch_boxes",
            "Boxes scored in one answer of Predict or one pass of Recognize",
            buckets=(1, 4, 16, 64, 256, 1024, 4096),
            registry=registry,
        )
        self.batch_calls = Histogram(
            "stal_scoring_batch_calls",
            "Recognize calls that shared a pass",
            buckets=(1, 2, 4, 8, 16, 32),
            registry=registry,
        )
        self.running = Gauge("stal_scoring_requests", "Calls in progress, waiting ones included", registry=registry)
        self.models = Counter(
            "stal_scoring_model_cache", "Heads asked for, by whether they were loaded", ["result"], registry=registry
        )
        for result in ("hit", "miss"):
            self.models.labels(result)

    def count_model(self, hit: bool) -> None:
        self.models.labels("hit" if hit else "miss").inc()


class JobMetrics(Collector):
    """Of the jobs that this service owns; their progress is read from their event files when somebody asks."""

    def __init__(self, jobs: JobManager) -> None:
        self._jobs = jobs

    def collect(self) -> Iterable[Metric]:
        """Called by the thread of the HTTP server."""
        jobs = self._jobs.active()
        finished = CounterMetricFamily("stal_jobs_finished", "Jobs that ended", labels=["status"])
        for status in JobStatus:
            if status.ended:
                finished.add_metric([status.value], self._jobs.finished[status])
        states = GaugeMetricFamily("stal_jobs", "Jobs of this service", labels=["status"])
        for status in (JobStatus.QUEUED, JobStatus.RUNNING):
            states.add_metric([status.value], sum(record.status is status for _, record in jobs))
        gauges = {field: GaugeMetricFamily(name, text, labels=["run_id"]) for field, name, text in _OF_THE_LAST_STEP}
        for files, record in jobs:
            step = last_step(files.run.events, offset=record.events_offset)
            if step is not None:
                for field, gauge in gauges.items():
                    gauge.add_metric([record.run_id], getattr(step, field))
        return finished, states, *gauges.values()
