"""How the backbones run: precision, compilation, batch size and memory, and what each does to the features."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cache.backbones.load import LoadedBackbone, load_backbone
from cache.feature_store import open_feature_set
from cache.feature_store.manage.diff import diff_feature_sets
from cache.precompute import PrecomputeOptions, precompute
from cache.precompute.devices import check_compiler, resolve_devices
from cache.precompute.extract import Extractor
from cache.spec import Autocast
from cache.statistics import array_name, statistic_of
from cache.store import Store
from stal_data.dataset import Split
from stal_data.errors import ConflictError, InputError

MAPS = ("slow", "fast", "vit")
# Of an array's largest value. Half precision keeps 8 (bf16) or 11 (fp16) bits of every product's inputs; the errors of
# the layers add up. Measured: 9e-3 and 1e-3.
BOUNDS = {"bf16": 2e-2, "fp16": 3e-3}
FLOAT32_ORDER = 1e-5  # sums in another order


@pytest.fixture(scope="module")
def slowfast() -> LoadedBackbone:
    return load_backbone("slowfast", weights="random:0", preset="tiny")


@pytest.fixture(scope="module")
def vit() -> LoadedBackbone:
    return load_backbone("vit", weights="random:0", preset="tiny")


def error(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("autocast", ["bf16", "fp16"])
def test_half_precision_moves_the_features_by_little_and_makes_another_set(
    store: Store, split: Split, slowfast: LoadedBackbone, vit: LoadedBackbone, autocast: str, record_property
) -> None:
    [single] = precompute(split, store, PrecomputeOptions(backbones=[slowfast, vit], dtype="float32"))
    [half] = precompute(split, store, PrecomputeOptions(backbones=[slowfast, vit], dtype="float32", autocast=autocast))
    assert half.id != single.id
    assert half.spec.diff(single.spec) == [f"autocast: {autocast} / none"]
    a, b = single.read(range(9)), half.read(range(9))
    for name in (*MAPS, "vit_moments"):
        found = error(b[name], a[name])
        record_property(name, found)
        # Zero would mean that nothing was computed in half precision.
        assert BOUNDS[autocast] / 1000 < found < BOUNDS[autocast]


@pytest.mark.parametrize("autocast", ["bf16", "fp16"])
def test_statistics_of_half_precision_maps_are_computed_in_float32(
    store: Store, split: Split, autocast: Autocast
) -> None:
    kept = {"slow": ("full", "slope", "slope/2x2"), "fast": ("mean",)}
    backbone = load_backbone("slowfast", weights="random:0", preset="tiny", statistics=kept)
    [half] = precompute(split, store, PrecomputeOptions(backbones=[backbone], dtype="float32", autocast=autocast))
    stored = half.read([0, 1])
    maps = torch.from_numpy(stored[array_name("slow", "full")])
    for word in ("slope", "slope/2x2"):
        np.testing.assert_array_equal(
            stored[array_name("slow", word)], statistic_of(word).compute(maps).numpy(), strict=True
        )


def test_the_number_of_threads_and_of_clips_in_a_batch_move_the_features_within_the_stated_bound(
    split: Split, slowfast: LoadedBackbone, vit: LoadedBackbone, tmp_path: Path
) -> None:
    paths = []
    before = torch.get_num_threads()
    try:
        for threads, batch_size in ((1, 1), (2, 4)):
            torch.set_num_threads(threads)
            options = PrecomputeOptions(backbones=[slowfast, vit], dtype="float16", batch_size=batch_size)
            [features] = precompute(split, Store.open(tmp_path / str(threads), create=True), options)
            paths.append(features.path)
    finally:
        torch.set_num_threads(before)
    found = diff_feature_sets(*paths)
    assert found.same
    assert found.equal + len(found.rounded) == 9


def test_a_set_of_another_precision_is_refused_with_the_field(store: Store, split: Split, vit: LoadedBackbone) -> None:
    [half] = precompute(split, store, PrecomputeOptions(backbones=[vit], autocast="bf16"))
    with pytest.raises(ConflictError, match=r"autocast: none / bf16"):
        open_feature_set(store, "street", "train", spec=replace(half.spec, autocast="none"))


def test_the_batch_size_moves_the_features_by_rounding_only(
    tmp_path: Path, split: Split, slowfast: LoadedBackbone, vit: LoadedBackbone
) -> None:
    sets = []
    for size in (1, 4):
        store = Store.open(tmp_path / str(size), create=True)
        sets += precompute(split, store, PrecomputeOptions(backbones=[slowfast, vit], dtype="float32", batch_size=size))
    assert sets[0].id == sets[1].id
    a, b = (features.read(range(9)) for features in sets)
    for name in MAPS:
        assert error(a[name], b[name]) < FLOAT32_ORDER


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on the CPU")
def test_compiled_backbones_give_the_same_up_to_rounding(
    store: Store,
    split: Split,
    slowfast: LoadedBackbone,
    vit: LoadedBackbone,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    options = PrecomputeOptions(backbones=[slowfast, vit], dtype="float32")
    [plain] = precompute(split, store, options)
    # Batches of 4, 4 and 1: the last one is padded.
    from torch._dynamo.utils import counters  # takes seconds to import

    counters.clear()
    [compiled] = precompute(split, store, replace(options, compiled=True, batch_size=4))
    assert counters["stats"]["unique_graphs"] == 2  # SlowFast, and one of the ViT's blocks for all
    assert compiled.spec.diff(plain.spec) == ["compiled: True / False"]
    a, b = compiled.read(range(9)), plain.read(range(9))
    for name in MAPS:
        assert error(a[name], b[name]) < FLOAT32_ORDER


def test_compiling_without_a_compiler_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(InputError, match=r"--compile on a CPU needs a C\+\+ compiler"):
        check_compiler(torch.device("cpu"))


def test_a_batch_that_does_not_fit_the_memory_is_computed_in_smaller_ones() -> None:
    """Under a real limit: the kernel refuses the allocator's requests."""
    child = [sys.executable, "-m", "tests.cache.small_memory", str(60 * 2**20)]
    done = subprocess.run(child, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    difference, *notes = done.stdout.splitlines()
    assert float(difference) < FLOAT32_ORDER
    assert notes[0] == "A batch of 16 clips does not fit the memory of cpu; going on with 8."
    # The smaller size is kept: several pieces of a batch, one failure each.
    assert len(notes) <= 3


class Full(torch.nn.Module):
    """A backbone for which no batch fits."""

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        return torch.empty(2**60)


def test_one_clip_that_does_not_fit_is_an_error(store: Store, split: Split, vit: LoadedBackbone) -> None:
    notes: list[str] = []
    full = LoadedBackbone(model=Full(), spec=vit.spec)
    with pytest.raises(InputError, match=r"One clip does not fit the memory of cpu .*can't allocate memory"):
        precompute(split, store, PrecomputeOptions(backbones=[full]), note=notes.append)
    assert [note.rsplit(maxsplit=1)[1] for note in notes] == ["4.", "2.", "1."]


class Short(torch.nn.Module):
    """A backbone on a device whose memory holds two clips, and which says so in the given words."""

    def __init__(self, model: torch.nn.Module, error: str) -> None:
        super().__init__()
        self.model, self.error = model, error

    def forward(self, clip: torch.Tensor) -> object:
        if len(clip) > 2:
            raise RuntimeError(self.error)
        return self.model(clip)


@pytest.mark.parametrize(
    "error",
    [
        "CUDA error: out of memory",
        "GET was unable to find an engine to execute this computation",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_what_a_gpus_libraries_make_of_a_full_memory_is_known(vit: LoadedBackbone, error: str) -> None:
    notes: list[str] = []
    clips = {(48, 64): torch.randint(0, 256, (5, 32, 48, 64, 3), dtype=torch.uint8)}
    short = LoadedBackbone(model=Short(vit.model, error), spec=vit.spec)
    found = Extractor([short], torch.device("cpu"), note=notes.append).launch(clips, ["identity"]).arrays()
    expected = Extractor([vit], torch.device("cpu"), batch_size=2).launch(clips, ["identity"]).arrays()
    for name, values in expected["identity"].items():
        np.testing.assert_array_equal(found["identity"][name], values)
    assert notes[-1].endswith("going on with 2.")


def test_other_errors_of_a_backbone_are_not_taken_for_a_full_memory(vit: LoadedBackbone) -> None:
    notes: list[str] = []
    extractor = Extractor([vit], torch.device("cpu"), note=notes.append)
    with pytest.raises(RuntimeError):
        extractor.launch({(48, 64): torch.zeros(4, 30, 48, 64, 3, dtype=torch.uint8)}, ["identity"])
    assert notes == []


@pytest.mark.gpu
def test_a_gpu_whose_memory_is_limited_computes_smaller_batches(vit: LoadedBackbone) -> None:
    device, size = torch.device("cuda", 0), (112, 176)
    small = load_backbone("vit", weights="random:0", preset="small")
    clips = {size: torch.zeros(64, 32, *size, 3, dtype=torch.uint8)}
    notes: list[str] = []
    torch.cuda.set_per_process_memory_fraction(2**29 / torch.cuda.get_device_properties(device).total_memory, device)
    try:
        extractor = Extractor([small], device, batch_size=64, note=notes.append)
        arrays = extractor.launch(clips, ["identity"]).arrays()["identity"]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    assert len(arrays["vit"]) == 64
    assert notes


@pytest.mark.gpu
@pytest.mark.parametrize("autocast", ["none", "bf16", "fp16"])
def test_a_gpu_computes_what_the_cpu_does(
    slowfast: LoadedBackbone, vit: LoadedBackbone, autocast: str, tmp_path: Path, split: Split
) -> None:
    options = {"backbones": [slowfast, vit], "dtype": "float32"}
    [cpu] = precompute(
        split, Store.open(tmp_path / "cpu", create=True), PrecomputeOptions(device=torch.device("cpu"), **options)
    )
    [gpu] = precompute(
        split,
        Store.open(tmp_path / "gpu", create=True),
        PrecomputeOptions(device=torch.device("cuda:0"), autocast=autocast, **options),
    )
    a, b = cpu.read(range(9)), gpu.read(range(9))
    for name in MAPS:
        assert error(b[name], a[name]) < BOUNDS.get(autocast, 1e-4)


@pytest.mark.gpu
def test_a_rank_takes_the_gpu_of_its_number() -> None:
    last = torch.cuda.device_count() - 1
    assert resolve_devices("auto", last) == [torch.device("cuda", last)]
    if last:
        with pytest.raises(InputError, match="LOCAL_RANK is"):
            resolve_devices("auto", last + 1)
