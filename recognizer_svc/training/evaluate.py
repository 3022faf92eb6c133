"""Scores of the validation split, each rank doing its share."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from recognizer_svc.batching import clip_groups, read_ahead
from recognizer_svc.data import LabelledFeatures
from recognizer_svc.losses import Loss
from recognizer_svc.training.distributed import Ranks
from recognizer_svc.training.loop import NonFiniteLossError
from recognizer_svc.training.validation import mean_average_precision

MAX_CLIPS = 32
MAX_DECODED_CLIPS = 8
"""Where the clips go through a backbone, too: one of 224x224 pixels takes 19 MB before it is computed."""
MAX_ACTORS = 128
"""Of one forward pass; bounds its memory."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """map: in [0,1], ground-truth boxes, no capacity; maps: of each of several data sets. loss: mean over the boxes."""

    map: float
    maps: dict[str, float | None]
    loss: float
    boxes: int


def evaluate(head: nn.Module, data: LabelledFeatures, loss: Loss, ranks: Ranks, *, threads: int) -> Validation:
    """Score every labelled key frame; all ranks must call it and get the same answer. head: what the trainer trains.

    Raises NonFiniteLossError where the head has diverged.
    """
    head.eval()
    counts = [len(item.boxes_N4) for item in data.items]
    offsets = np.cumsum([0, *counts])
    mine = list(range(len(counts)))[ranks.rank :: ranks.world_size]
    max_clips = MAX_DECODED_CLIPS if data.decodes else MAX_CLIPS
    groups = clip_groups([counts[index] for index in mine], max_clips=max_clips, max_actors=MAX_ACTORS)
    plan = [[mine[position] for position in group] for group in groups]
    # Rows of other ranks stay 0 and are filled by the sum.
    scores_NC = torch.zeros((int(offsets[-1]), data.num_classes), dtype=torch.float32, device=ranks.device)
    total = torch.zeros(1, dtype=torch.float64, device=ranks.device)
    load = partial(data.load, pinned=ranks.device.type == "cuda")
    with torch.inference_mode():
        for part, batch in zip(plan, read_ahead(load, plan, threads), strict=True):
            logits_NC = head(batch.head.to(ranks.device))
            labelled_NC = None if batch.labelled_NC is None else batch.labelled_NC.to(ranks.device)
            total += loss.total(logits_NC, batch.targets_NC.to(ranks.device), labelled_NC).double()
            rows = np.concatenate([np.arange(offsets[index], offsets[index + 1]) for index in part])
            scores_NC[torch.from_numpy(rows).to(ranks.device)] = loss.scores(logits_NC)
    ranks.sum(scores_NC)
    ranks.sum(total)
    if not torch.isfinite(total):
        raise NonFiniteLossError(
            "The loss on the validation split is not finite: the training has diverged. Lower "
            "optimizer.learning_rate, or resume from the last checkpoint with another training.seed."
        )
    targets_NC = np.concatenate([item.targets_NC for item in data.items])
    found_NC, known_NC = scores_NC.cpu().numpy(), data.known(data.items)
    mean_ap = mean_average_precision(found_NC, targets_NC, known_NC)
    assert mean_ap is not None  # a split without any action is refused when it is opened
    dataset_N = np.repeat([data.dataset_of(item.key) for item in data.items], counts)
    names = dict.fromkeys(dataset_N.tolist())
    parts = {name: dataset_N == name for name in names if len(names) > 1}
    maps = {name: mean_average_precision(found_NC[N], targets_NC[N], known_NC[N]) for name, N in parts.items()}
    return Validation(map=mean_ap, maps=maps, loss=float(total) / len(targets_NC), boxes=len(targets_NC))
