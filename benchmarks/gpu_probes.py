"""What decides, in two minutes, whether a GPU does what the code expects of it; prints a line a probe.

python -m benchmarks.gpu_probes --device cuda
python -m benchmarks.gpu_probes --device cpu --tiny     # the same code on a CPU, small
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from cache.backbones.load import load_backbone
from cache.exact_float32 import exact_float32
from cache.precompute.extract import is_out_of_memory
from recognizer_svc.data import LabelledBatch
from recognizer_svc.heads.acar.config import AcarConfig
from recognizer_svc.heads.acar.model import AcarHead, attention
from recognizer_svc.heads.batch import FeatureShapes, HeadBatch
from recognizer_svc.losses.pose_softmax import PoseSoftmax
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.loop import Trainer
from stal_data.keyframes import KeyFrame

PUBLISHED = {"slow": (2048, 14, 14), "fast": (256, 14, 14), "vit": (1408, 16, 16), "vit_moments": (2, 1408)}
SMALL = {"slow": (32, 5, 5), "fast": (8, 5, 5), "vit": (16, 7, 7), "vit_moments": (2, 16)}


class Kernels(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names |= {func.name()} if "attention" in func.name() else set()
        return func(*args, **(kwargs or {}))


def seconds(device: torch.device, work: Callable[[], object], repeats: int = 5) -> float:
    """Median of a few calls, after one."""
    work()
    times = []
    for _ in range(repeats):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def say(name: str, text: object) -> None:
    print(f"{name}: {text}", flush=True)


def libraries(device: torch.device) -> None:
    say("torch", f"{torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")
    if device.type == "cuda":
        say("GPU", f"{torch.cuda.get_device_name(device)}, {torch.cuda.get_device_capability(device)}")


def float32(device: torch.device) -> None:
    """TF32 has 10 bits, so its error is about 1e-3 of the result where float32's is 1e-6."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    exact_float32()
    random = torch.Generator().manual_seed(0)
    a, b = (torch.randn(512, 512, generator=random) for _ in range(2))
    x, w = torch.randn(4, 64, 14, 14, generator=random), torch.randn(64, 64, 3, 3, generator=random)
    product = (a.to(device) @ b.to(device)).cpu() - (a.double() @ b.double()).float()
    convolution = torch.nn.functional.conv2d(x.to(device), w.to(device)).cpu() - torch.nn.functional.conv2d(x, w)
    for name, error in (("product", product), ("convolution", convolution)):
        worst = error.abs().max().item() / 512**0.5
        say(f"float32 {name}", f"error {worst:.1e} of a typical value{'; TF32 IS ON' if worst > 1e-4 else ''}")


def attentions(device: torch.device, tiny: bool) -> None:
    shape = (1, 2, 64, 8) if tiny else (8, 16, 4096, 88)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        q = torch.randn(shape, device=device, dtype=dtype)
        with Kernels() as kernels:
            torch.nn.functional.scaled_dot_product_attention(q, q, q)
        ms = 1e3 * seconds(device, lambda q=q: torch.nn.functional.scaled_dot_product_attention(q, q, q))
        say(f"attention {list(shape)} {str(dtype).removeprefix('torch.')}", f"{ms:.2f} ms, {', '.join(kernels.names)}")
    people = 7 if tiny else 60
    qkv_PN3C = torch.randn(people, 3 * 32, 36, device=device).permute(2, 0, 1)
    mask_NN = torch.eye(people, dtype=torch.bool, device=device)
    with Kernels() as kernels:
        attention(qkv_PN3C, mask_NN)
    plain = any(name.endswith("_math") for name in kernels.names)
    say("the ACAR head's attention", f"{', '.join(kernels.names)}{'; IT IS THE PLAIN KERNEL' if plain else ''}")
    with sdpa_kernel(SDPBackend.MATH):
        expected = attention(qkv_PN3C, mask_NN)
    say("its difference to the plain kernel", f"{(attention(qkv_PN3C, mask_NN) - expected).abs().max().item():.1e}")


def out_of_memory(device: torch.device) -> None:
    """The words of this machine's libraries, and whether precompute takes them for a full memory."""
    try:
        torch.empty(2**60, dtype=torch.uint8, device=device)
    except (RuntimeError, MemoryError) as error:
        known = "known" if is_out_of_memory(error) else "NOT KNOWN AS SUCH"
        say("too much memory", f"{known}: {type(error).__name__}: {str(error).splitlines()[0]}")


def ranks(device: torch.device) -> None:
    """Rank 1 fails: the job must end within seconds, and say why."""
    backend = "nccl" if device.type == "cuda" and torch.cuda.device_count() > 1 else "gloo"
    code = (
        "import os, time\n"
        "from recognizer_svc.training.distributed import connect\n"
        f"with connect('{backend}', timeout_s=60) as ranks:\n"
        "    import torch\n"
        "    ranks.sum(torch.zeros(1, device=ranks.device))\n"
        "    if ranks.rank == 1: raise ValueError('rank 1 fails')\n"
        "    time.sleep(600)\n"
    )
    words = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *words, "--no-python", sys.executable, "-c", code],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    took_s = time.perf_counter() - start
    said = "rank 1 fails" in done.stderr
    say(f"a failing rank ({backend})", f"ended after {took_s:.0f} s, {'said why' if said else 'DID NOT SAY WHY'}")


def head_step(device: torch.device, tiny: bool) -> None:
    """A training step of the published head: 12 clips with 3 people each."""
    arrays = SMALL if tiny else PUBLISHED
    shapes = FeatureShapes(arrays=arrays, time_steps={"vit": 16})
    config = AcarConfig(reduce_channels=8, context_channels=8) if tiny else AcarConfig()
    head = AcarHead(config, shapes, 50).to(device)
    optimizer = torch.optim.SGD(head.parameters(), lr=0.01, momentum=0.9)
    trainer = Trainer(head=head, model=head, optimizer=optimizer, loss=PoseSoftmax(), ranks=Ranks(device=device))
    batch = labelled_batch(arrays)
    ms = 1e3 * seconds(device, lambda: trainer.step(batch, 0.01), repeats=2 if tiny else 20)
    say("training step, 12 clips, float32", f"{ms:.1f} ms")
    varying_people(trainer, arrays, repeats=2 if tiny else 10)
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
        try:
            head(batch.head.to(device))
            say("waits for the GPU in a pass", "none")
        except RuntimeError as error:
            say("waits for the GPU in a pass", f"SOME: {str(error).splitlines()[0]}")
        finally:
            torch.cuda.set_sync_debug_mode("default")


def varying_people(trainer: Trainer, arrays: dict[str, tuple[int, ...]], repeats: int) -> None:
    """What it costs that each step has another number of people, for whom libraries may plan anew."""
    counts = range(1, 6)
    batches = [labelled_batch(arrays, people=people) for people in counts]
    device = trainer.ranks.device
    varying = seconds(device, lambda: [trainer.step(batch, 0.01) for batch in batches], repeats)
    alike = sum(seconds(device, lambda batch=batch: trainer.step(batch, 0.01), repeats) for batch in batches)
    say("steps of 1 to 5 people a clip, in turn / each alone", f"{varying / alike:.2f}")


def layouts(device: torch.device, tiny: bool) -> None:
    """Whether SlowFast gains from channels last, and the ViT's patch embedding from being a matrix product."""
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    count = 1 if tiny else 8
    slowfast = load_backbone("slowfast", weights="random:0", preset="tiny" if tiny else "r50")
    model, spec = slowfast.model.to(device, dtype), slowfast.spec
    clip = torch.randn(count, 3, 32, spec.height, spec.width, device=device, dtype=dtype)
    tubelet, channels = (2, 14, 14), 16 if tiny else 1408
    conv = torch.nn.Conv3d(3, channels, tubelet, stride=tubelet).to(device, dtype)
    weight, bias = conv.weight.flatten(1), conv.bias
    square = torch.randn(count, 3, 32, 224, 224, device=device, dtype=dtype)

    def product() -> Tensor:
        patches = square.unfold(2, 2, 2).unfold(3, 14, 14).unfold(4, 14, 14).permute(0, 2, 3, 4, 1, 5, 6, 7)
        return torch.nn.functional.linear(patches.flatten(4), weight, bias)

    with torch.inference_mode():
        plain = seconds(device, lambda: model(clip))
        last = model.to(memory_format=torch.channels_last_3d)
        clip_last = clip.contiguous(memory_format=torch.channels_last_3d)
        say(
            "SlowFast, channels last / as is",
            f"{seconds(device, lambda: last(clip_last)) / plain:.2f} of {1e3 * plain:.1f} ms",
        )
        as_conv = seconds(device, lambda: conv(square))
        say(
            "patch embedding, product / convolution",
            f"{seconds(device, product) / as_conv:.2f} of {1e3 * as_conv:.1f} ms",
        )


def labelled_batch(arrays: dict[str, tuple[int, ...]], clips: int = 12, people: int = 3) -> LabelledBatch:
    random = torch.Generator().manual_seed(0)

    def values(shape: tuple[int, ...]) -> Tensor:
        return torch.rand(clips, *shape, generator=random)

    corner_N2 = torch.rand(clips * people, 2, generator=random) * 0.5
    return LabelledBatch(
        head=HeadBatch(
            features={name: values(shape) for name, shape in arrays.items()},
            boxes_N4=torch.cat([corner_N2, corner_N2 + 0.3], dim=1),
            clip_of_N=torch.arange(clips).repeat_interleave(people),
        ),
        targets_NC=(torch.rand(clips * people, 50, generator=random) < 0.1).float(),
        keys=tuple(KeyFrame("v", 1000 * clip) for clip in range(clips)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args()
    device = torch.device(options.device)
    libraries(device)
    float32(device)
    attentions(device, options.tiny)
    out_of_memory(device)
    ranks(device)
    head_step(device, options.tiny)
    layouts(device, options.tiny)


if __name__ == "__main__":
    main()
