"""The Prometheus metrics that both services have."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from svc_common.gpu_metrics import GpuMemory

_SECONDS = (0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300, 1800)


class Metrics:
    """Call metrics of one server; a service registers its own in `registry`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = Counter("stal_rpc", "Finished and refused calls", ["method", "code"], registry=self.registry)
        self.seconds = Histogram(
            "stal_rpc_seconds", "Duration of finished calls", ["method"], buckets=_SECONDS, registry=self.registry
        )
        self.running = Gauge("stal_rpc_running", "Calls in progress", ["method"], registry=self.registry)
        ProcessCollector(registry=self.registry)
        self.registry.register(GpuMemory())
