"""A stand-in for pre-training: a small backbone learns from a split's own labels, through one linear layer.

The published backbones were pre-trained on other data. A preset for which no such weights exist is trained here on
what each person's own pixels show, for a fixed number of steps, and is frozen from then on.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from cache.backbones import backbone_of
from cache.backbones.architectures import build_without_weights, preset_config
from cache.backbones.registry import BackboneConfig
from cache.backbones.train_clips import ClipBatch, Draw, TrainingClips, plan_batches, plan_windows
from cache.backbones.weights import assign_state, random_state
from cache.exact_float32 import exact_float32
from cache.roi_align import roi_align
from stal_data.dataset import Split
from stal_data.errors import InputError

ROI_SIZE = 7
MAX_POSITIVE_WEIGHT = 10.0
GRADIENT_NORM = 1.0
CALIBRATION_EXAMPLES = 240
# A step of 3-D convolutions takes a quarter less with the channels last.
CLIP_FORMAT = torch.channels_last_3d
COLOUR_JITTER = 0.1  # standard deviation of gain and offset of each channel of an example, in normalised units


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What, besides the split, decides the trained tensors (with the number of torch threads and the device).

    label_types: the labels to learn, by their type in the label map.
    batch_size: windows around people or whole clips a step; None = the backbone's default.
    learning_rate: the peak; it rises over the first `warmup` part of the steps and falls as a cosine to zero.
    """

    kind: str
    preset: str
    label_types: tuple[str, ...]
    steps: int
    batch_size: int | None = None
    learning_rate: float = 3e-3
    weight_decay: float = 0.05
    warmup: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "learning_rate"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be greater than 0.")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; it must be 0 or greater.")

    @property
    def examples(self) -> int:
        """Examples of one step."""
        return self.batch_size or backbone_of(self.kind).architecture.train_batch


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """step: from 1. loss: mean over the people and labels of the batch."""

    step: int
    loss: float
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class TrainedBackbone:
    """model: in eval mode, on the CPU. provenance: what it was trained on and how, as JSON values."""

    model: nn.Module
    architecture: BackboneConfig
    provenance: Mapping[str, object]


class ActorClassifier(nn.Module):
    """The backbone, and one linear layer on what it shows inside each person's box."""

    def __init__(self, backbone: nn.Module, channels: int, num_labels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.norm = nn.BatchNorm1d(2 * channels)
        self.linear = nn.Linear(2 * channels, num_labels)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, clips_B3THW: Tensor, boxes_N5: Tensor) -> Tensor:
        """boxes_N5: clip index, x1,y1,x2,y2 in [0,1]. Returns logits [N, labels]."""
        maps = self.backbone(clips_B3THW).values()
        actor_NC = torch.cat([_actor_features(map_BCTHW.mean(dim=2), boxes_N5) for map_BCTHW in maps], dim=1)
        logits: Tensor = self.linear(self.norm(actor_NC))
        return logits


def train_backbone(
    split: Split,
    config: TrainConfig,
    *,
    device: torch.device,
    threads: int,
    cache_bytes: int,
    progress: Callable[[StepReport], None] | None = None,
) -> TrainedBackbone:
    """Train a backbone from random weights; the same inputs, threads of torch and device give the same tensors.

    threads: decoder threads, without influence on the result. cache_bytes: limit of the clips kept in memory.
    """
    architecture = preset_config(config.kind, config.preset)
    clips = TrainingClips(
        split,
        label_types=config.label_types,
        height=architecture.height,
        width=architecture.width,
        cache_bytes=cache_bytes,
        window=_window(config.kind, architecture.height),
    )
    if clips.window is None:
        plan = plan_batches(len(clips), steps=config.steps, batch_size=config.examples, seed=config.seed)
    else:
        plan = plan_windows(clips, steps=config.steps, batch_size=config.examples, seed=config.seed)
    exact_float32()
    channels = sum(shape[0] for shape in architecture.maps.values())
    backbone = build_without_weights(config.kind, architecture)
    assign_state(backbone, random_state(backbone, config.seed), "initial weights")
    model = ActorClassifier(backbone, channels, len(clips.label_ids)).to(device).to(memory_format=CLIP_FORMAT)
    _optimize(model, clips, plan, config, device, threads, progress)
    calibration = plan[: math.ceil(CALIBRATION_EXAMPLES / config.examples)]
    _calibrate(model, clips, calibration, device, threads)
    return TrainedBackbone(
        model=backbone.cpu().to(memory_format=torch.contiguous_format).eval(),
        architecture=architecture,
        provenance=_provenance(split, config, clips),
    )


def _optimize(
    model: ActorClassifier,
    clips: TrainingClips,
    plan: list[list[Draw]],
    config: TrainConfig,
    device: torch.device,
    threads: int,
    progress: Callable[[StepReport], None] | None,
) -> None:
    optimizer = torch.optim.AdamW(_parameter_groups(model, config.weight_decay), lr=config.learning_rate)
    # Windows are drawn evenly already; whole clips show everybody, so rare labels count more.
    weight_L = _positive_weights(clips).to(device) if clips.window is None else None
    generator = torch.Generator().manual_seed(config.seed)
    model.train()
    for step, batch in enumerate(clips.batches(plan, threads), start=1):
        learning_rate = scheduled_rate(config, step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        loss = _loss(model, _on(device, _jitter_colour(batch, generator)), weight_L)
        value = loss.item()
        if not math.isfinite(value):
            raise InputError(
                f"The loss is {value} at step {step}. Lower the learning rate ({config.learning_rate}) and train again."
            )
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        optimizer.step()
        if progress is not None:
            progress(StepReport(step=step, loss=value, learning_rate=learning_rate))


def _window(kind: str, height: int) -> int | None:
    """Return the side of the window around a person, in steps of 8 pixels; None = whole clips."""
    share = backbone_of(kind).architecture.window_share
    return None if share is None else max(8, round(share * height / 8) * 8)


def _jitter_colour(batch: ClipBatch, generator: torch.Generator) -> ClipBatch:
    """Change gain and offset of each example's channels, so that clothes and light are not learnt by heart."""
    gain, offset = COLOUR_JITTER * torch.randn(2, len(batch.clips_B3THW), 3, 1, 1, 1, generator=generator)
    return replace(batch, clips_B3THW=batch.clips_B3THW * (1 + gain) + offset)


def _on(device: torch.device, batch: ClipBatch) -> ClipBatch:
    moved = batch.to(device)
    return replace(moved, clips_B3THW=moved.clips_B3THW.contiguous(memory_format=CLIP_FORMAT))


def _loss(model: ActorClassifier, batch: ClipBatch, weight_L: Tensor | None) -> Tensor:
    logits_NL = model(batch.clips_B3THW, batch.boxes_N5)
    return functional.binary_cross_entropy_with_logits(logits_NL, batch.targets_NL, pos_weight=weight_L)


def _calibrate(
    model: ActorClassifier, clips: TrainingClips, plan: list[list[Draw]], device: torch.device, threads: int
) -> None:
    """Recompute BatchNorm's running statistics: those of a short training lag behind its weights."""
    norms = [module for module in model.backbone.modules() if isinstance(module, nn.BatchNorm3d)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over all batches
    model.train()
    with torch.no_grad():
        for batch in clips.batches(plan, threads):
            model.backbone(_on(device, batch).clips_B3THW)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def scheduled_rate(config: TrainConfig, step: int) -> float:
    """Return the learning rate of a step (from 1): linear up, then a cosine that reaches zero after the last step."""
    position = (step - 0.5) / config.steps
    if position < config.warmup:
        return config.learning_rate * position / config.warmup
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (position - config.warmup) / (1 - config.warmup)))


def _actor_features(map_BCHW: Tensor, boxes_N5: Tensor) -> Tensor:
    """Return [N, 2C]: mean and maximum inside each box, sampled as the heads sample it."""
    rows, columns = map_BCHW.shape[2:]
    scaled_N5 = boxes_N5 * boxes_N5.new_tensor([1, columns, rows, columns, rows])
    roi_NC77 = roi_align(map_BCHW, scaled_N5, ROI_SIZE)
    return torch.cat([roi_NC77.mean(dim=(2, 3)), roi_NC77.amax(dim=(2, 3))], dim=1)


def _positive_weights(clips: TrainingClips) -> Tensor:
    """Rare labels count more: the root of negatives to positives, at most MAX_POSITIVE_WEIGHT."""
    positives_L, people = clips.label_counts()
    positives = torch.from_numpy(positives_L).clamp(min=1)
    return ((people - positives) / positives).sqrt().clamp(1.0, MAX_POSITIVE_WEIGHT).float()


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Biases and norms are not decayed."""
    parameters = list(model.parameters())
    return [
        {"params": [item for item in parameters if item.ndim > 1], "weight_decay": weight_decay},
        {"params": [item for item in parameters if item.ndim <= 1], "weight_decay": 0.0},
    ]


def _provenance(split: Split, config: TrainConfig, clips: TrainingClips) -> dict[str, object]:
    return {
        "training": asdict(replace(config, batch_size=config.examples)),
        "window": clips.window,
        "dataset": split.dataset,
        "split": split.name,
        "labels": list(clips.label_ids),
        "label_map": split.label_map.digest if split.label_map else None,
        "clips": len(clips),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
    }
