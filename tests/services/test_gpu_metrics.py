"""Which GPUs the memory metrics show; asking must not cost memory on those that the service leaves alone."""

import subprocess
import sys

import pytest
import torch
from prometheus_client import CollectorRegistry, generate_latest

from svc_common.gpu_metrics import GpuMemory

# In a process of its own, since the devices that others have used here stay in use.
ON_GPUS = """
import torch
from svc_common.gpu_metrics import GpuMemory

def devices():
    return [[sample.labels["device"] for sample in family.samples] for family in GpuMemory().collect()]

torch.cuda.init()
assert devices() == [[], [], []], devices()
tensor = torch.ones(1 << 20, device="cuda:0")
assert devices() == [["cuda:0"]] * 3, devices()
used, own, total = (family.samples[0].value for family in GpuMemory().collect())
assert own == 4 << 20 and own < used <= total, (used, own, total)
opened = [torch._C._cuda_hasPrimaryContext(index) for index in range(torch.cuda.device_count())]
assert opened == [True] + [False] * (len(opened) - 1), opened
"""


def page() -> str:
    registry = CollectorRegistry()
    registry.register(GpuMemory())
    return generate_latest(registry).decode()


@pytest.mark.skipif(torch.cuda.is_initialized(), reason="another test has used a GPU")
def test_a_process_that_uses_no_gpu_has_no_series() -> None:
    assert "stal_gpu_memory_own_bytes{" not in page()
    assert not torch.cuda.is_initialized()


def test_a_gpu_without_memory_of_this_process_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    reserved, asked = [0, 1 << 21, 0], []

    def mem_get_info(index: int) -> tuple[int, int]:
        asked.append(index)
        return 60, 100

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(reserved))
    monkeypatch.setattr(torch.cuda, "memory_reserved", reserved.__getitem__)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 7)
    monkeypatch.setattr(torch.cuda, "mem_get_info", mem_get_info)
    lines = [line for line in page().splitlines() if line.startswith("stal_")]
    assert lines == [
        'stal_gpu_memory_used_bytes{device="cuda:1"} 40.0',
        'stal_gpu_memory_own_bytes{device="cuda:1"} 7.0',
        'stal_gpu_memory_total_bytes{device="cuda:1"} 100.0',
    ]
    assert asked == [1]


@pytest.mark.gpu
def test_only_gpus_in_use_are_opened() -> None:
    subprocess.run([sys.executable, "-c", ON_GPUS], check=True, timeout=300)
