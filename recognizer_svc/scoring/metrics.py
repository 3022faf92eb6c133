"""Prometheus metrics of scoring."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60)


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
        self.batch_clips = Histogram(
            "stal_scoring_batch_clips",
            "Clips of videos whose features were computed together",
            buckets=(1, 2, 4, 8),
            registry=registry,
        )
        self.video_frames = Gauge(
            "stal_video_frames", "Frames of videos in memory, over all streams", registry=registry
        )
        self.running = Gauge("stal_scoring_requests", "Calls in progress, waiting ones included", registry=registry)
        self.models = Counter(
            "stal_scoring_model_cache", "Heads asked for, by whether they were loaded", ["result"], registry=registry
        )
        for result in ("hit", "miss"):
            self.models.labels(result)

    def count_model(self, hit: bool) -> None:
        self.models.labels("hit" if hit else "miss").inc()
