"""Memory of the GPUs that this process uses, as Prometheus metrics."""

import sys
from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector


class GpuMemory(Collector):
    """Read when somebody asks. Without samples in a process that uses no GPU.

    torch is taken from the modules that the service has loaded: a process that never needed it is not made to load it.
    Of several GPUs only those count on which torch holds memory for this process: asking the driver about another one
    would open a context there, which takes some hundred MB of its memory.
    """

    def collect(self) -> Iterable[GaugeMetricFamily]:
        used = GaugeMetricFamily("stal_gpu_memory_used_bytes", "Of the device, by all processes", labels=["device"])
        own = GaugeMetricFamily("stal_gpu_memory_own_bytes", "Tensors of this process", labels=["device"])
        total = GaugeMetricFamily("stal_gpu_memory_total_bytes", "Of the device", labels=["device"])
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            for index in range(torch.cuda.device_count()):
                if not torch.cuda.memory_reserved(index):  # asks torch's own books only
                    continue
                free_bytes, total_bytes = torch.cuda.mem_get_info(index)
                device = f"cuda:{index}"
                used.add_metric([device], total_bytes - free_bytes)
                own.add_metric([device], torch.cuda.memory_allocated(index))
                total.add_metric([device], total_bytes)
        return used, own, total
