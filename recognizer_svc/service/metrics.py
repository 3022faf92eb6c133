"""Prometheus metrics of jobs."""

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from recognizer_svc.runs.events import last_rows, last_step
from recognizer_svc.runs.record import JobKind, JobStatus
from recognizer_svc.service.jobs import JobManager

_OF_THE_LAST_STEP = (
    ("progress", "stal_job_progress_ratio", "Steps done, or rows with features, of all"),
    ("loss", "stal_job_loss", "Of the latest steps, mean over actors"),
    ("actors_per_s", "stal_job_actors_per_second", "Of the latest steps"),
    ("data_wait", "stal_job_data_wait_ratio", "Share of the latest steps spent waiting for features"),
)


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
        labels = ["run_id", "phase"]
        done = GaugeMetricFamily("stal_job_rows_done", "Rows that a precompute job has done in a phase", labels=labels)
        rows = GaugeMetricFamily("stal_job_rows", "Rows of a precompute job's phase", labels=labels)
        for files, record in jobs:
            events, offset = files.run.events, record.events_offset
            if record.kind is JobKind.PRECOMPUTE:
                if (last := last_rows(events, offset=offset)) is not None:
                    done.add_metric([record.run_id, last.phase], last.done)
                    rows.add_metric([record.run_id, last.phase], last.total)
                    if last.phase == "extract":
                        gauges["progress"].add_metric([record.run_id], last.done / max(last.total, 1))
            elif (step := last_step(events, offset=offset)) is not None:
                for field, gauge in gauges.items():
                    gauge.add_metric([record.run_id], getattr(step, field))
        return finished, states, done, rows, *gauges.values()
