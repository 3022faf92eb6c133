"""The relation head: every actor meets every other actor of its clip as a pair.

B clips, N actors of all clips, M actors of the clip that has most, C channels, D channels of an actor's vector, K
neighbouring key frames, V vectors of the feature bank.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from recognizer_svc.heads.acar.model import attention
from recognizer_svc.heads.bank_attention import BankAttention
from recognizer_svc.heads.batch import FeatureShapes, HeadBatch
from recognizer_svc.heads.batch_norm import ActorBatchNorm
from recognizer_svc.heads.relation.config import RelationConfig
from recognizer_svc.heads.roi import pooled_regions

GEOMETRY = 5
_MAX_PAIRS = 2**18
"""Computed at once, so that a crowd does not fill the memory; in training they are computed again for gradients."""
_MIN_SIDE = 1e-3
_MAX_OFFSET = 8.0


class RelationHead(nn.Module):
    """Pooled regions, each channel of mean 0 and variance 1 -> actor vectors -> relation to the others -> classes."""

    def __init__(self, config: RelationConfig, shapes: FeatureShapes, num_classes: int) -> None:
        super().__init__()
        self.config, self.maps = config, tuple(shapes.maps)
        pooled, size = config.regions.channels(shapes.maps), config.channels
        self.norm = ActorBatchNorm(pooled)
        neighbours = 2 * shapes.neighbours
        self.own = nn.Linear(pooled + neighbours * (pooled + 1), size)
        self.dropout = nn.Dropout(config.dropout)
        if config.relation == "pairs":
            self.pair_own = nn.Linear(size, size)
            self.pair_other = nn.Linear(size, size, bias=False)
            if config.geometry:
                self.pair_geometry = nn.Linear(GEOMETRY, size, bias=False)
            self.pair = nn.Linear(size, size)
        elif config.relation == "attention":
            self.qkv = nn.Linear(size, 3 * size)
        self.joined = nn.Linear(size if config.relation == "none" else 2 * size, size)
        self.classes = nn.Linear(size, num_classes)
        self.linear_skip = nn.Linear(pooled, num_classes, bias=False) if config.linear_skip else None
        # Last, so that the rest starts as it does without a bank.
        self.bank = BankAttention(shapes.bank_channels, size, config.dropout) if shapes.bank_channels else None

    def forward(self, batch: HeadBatch) -> Tensor:
        """Return logits [N, classes]."""
        pooled_NC = self._pooled(batch.features, batch.boxes_N4, batch.clip_of_N)
        normalise = self.norm.fitted(pooled_NC)
        pooled_NC = normalise(pooled_NC)
        seen_NX = torch.cat([pooled_NC, *self._neighbours(batch, normalise)], dim=1)
        own_ND = self.dropout(F.relu(self.own(seen_NX)))
        if self.bank is not None:
            assert batch.bank_VC is not None
            assert batch.bank_seen_BV is not None
            own_ND = own_ND + self.bank(own_ND, normalise(batch.bank_VC), batch.bank_seen_BV[batch.clip_of_N])
        parts = [own_ND]
        if self.config.relation == "pairs":
            parts.append(self._relations(own_ND, batch.boxes_N4, batch.clip_of_N))
        elif self.config.relation == "attention":
            same_clip_NN = batch.clip_of_N[:, None] == batch.clip_of_N[None, :]
            parts.append(attention(self.qkv(own_ND)[None], same_clip_NN)[0])
        joined_ND = self.dropout(F.relu(self.joined(torch.cat(parts, dim=1))))
        logits_NC: Tensor = self.classes(joined_ND)
        return logits_NC if self.linear_skip is None else logits_NC + self.linear_skip(pooled_NC)

    def _pooled(self, features: Mapping[str, Tensor], boxes_N4: Tensor, row_of_N: Tensor) -> Tensor:
        """Return each actor's region of all maps, pooled, [N, C]."""
        return pooled_regions(features, self.maps, boxes_N4, row_of_N, self.config.regions)

    def _neighbours(self, batch: HeadBatch, normalise: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Return each actor's regions in the neighbouring key frames, and whether each is there, [N, K C] and [N, K].

        Those that are not there are 0, which is also the mean of those that are. One at a time, since the maps' regions
        take more memory than what is kept of them.
        """
        boxes_NK4, row_NK = batch.neighbour_boxes_NK4, batch.neighbour_row_NK
        if boxes_NK4 is None or row_NK is None:
            return []
        there_NK = row_NK >= 0
        regions = []
        for boxes_N4, row_N, there_N in zip(boxes_NK4.unbind(1), row_NK.unbind(1), there_NK.unbind(1), strict=True):
            pooled_NC = normalise(self._pooled(batch.features, boxes_N4, row_N.clamp_min(0)))
            regions.append(pooled_NC.masked_fill(~there_N[:, None], 0))
        return [*regions, there_NK.to(regions[0].dtype)]

    def _relations(self, own_ND: Tensor, boxes_N4: Tensor, clip_of_N: Tensor) -> Tensor:
        """Return the maximum over each actor's pairs with the others of its clip, [N, D]; 0 for who is alone."""
        if torch.onnx.is_in_onnx_export():
            return self._relations_of_one_clip(own_ND, boxes_N4)
        num_actors = len(own_ND)
        # Actors of a clip are next to each other, so its others are a range of rows.
        counts_B = torch.unique_consecutive(clip_of_N, return_counts=True)[1]
        count_N = counts_B.repeat_interleave(counts_B)
        first_N = (counts_B.cumsum(0) - counts_B).repeat_interleave(counts_B)
        most = int(counts_B.max()) if num_actors else 1
        actor_N, place_M = (torch.arange(count, device=own_ND.device) for count in (num_actors, most))
        one_ND, other_ND = self.pair_own(own_ND), self.pair_other(own_ND)
        step = max(1, _MAX_PAIRS // most)
        found = []
        for start in range(0, max(1, num_actors), step):  # once without actors, too, for the gradients of all ranks
            rows = slice(start, start + step)
            other_NM = (first_N[rows, None] + place_M).clamp_max(num_actors - 1)
            real_NM = (place_M < count_N[rows, None]) & (other_NM != actor_N[rows, None])
            inputs = (one_ND[rows], other_ND, boxes_N4[rows], boxes_N4, other_NM, real_NM)
            crowd = num_actors > step and torch.is_grad_enabled()
            found.append(
                checkpoint(self._strongest, *inputs, use_reentrant=False) if crowd else self._strongest(*inputs)
            )
        return torch.cat(found)

    def _relations_of_one_clip(self, own_ND: Tensor, boxes_N4: Tensor) -> Tensor:
        """Return the same for one clip, without loops and numbers of Python's, which a trace would freeze."""
        place_N = torch.arange(own_ND.shape[0])
        other_NN = place_N.expand(own_ND.shape[0], -1)
        inputs = (boxes_N4, boxes_N4, other_NN, other_NN != place_N[:, None])
        return self._strongest(self.pair_own(own_ND), self.pair_other(own_ND), *inputs)

    def _strongest(
        self, one_ND: Tensor, all_ND: Tensor, box_N4: Tensor, all_boxes_N4: Tensor, other_NM: Tensor, real_NM: Tensor
    ) -> Tensor:
        # Indexing with [other_NM] would add up its gradient in the order in which the threads get there.
        hidden_NMD = one_ND[:, None] + all_ND.index_select(0, other_NM.flatten()).view(*other_NM.shape, all_ND.shape[1])
        if self.config.geometry:
            hidden_NMD = hidden_NMD + self.pair_geometry(relative_geometry(box_N4[:, None], all_boxes_N4[other_NM]))
        pair_NMD = F.relu(self.pair(F.relu(hidden_NMD)))
        # After ReLU nothing is below 0, which is what stands for no other.
        return pair_NMD.masked_fill(~real_NM[..., None], 0).amax(dim=1)


def relative_geometry(box_N14: Tensor, other_NM4: Tensor) -> Tensor:
    """Return where the others are, seen from a box, [N, M, 5]. Boxes are x1,y1,x2,y2 in [0,1].

    Offset of the centre in sides of the box, logarithm of the ratio of widths and of heights, IoU.
    """
    side, other_side = ((b[..., 2:] - b[..., :2]).clamp_min(_MIN_SIDE) for b in (box_N14, other_NM4))
    centre, other_centre = ((b[..., 2:] + b[..., :2]) / 2 for b in (box_N14, other_NM4))
    offset = ((other_centre - centre) / side).clamp(-_MAX_OFFSET, _MAX_OFFSET)
    common = torch.minimum(box_N14[..., 2:], other_NM4[..., 2:]) - torch.maximum(box_N14[..., :2], other_NM4[..., :2])
    intersection = common.clamp_min(0).prod(dim=-1, keepdim=True)
    union = side.prod(dim=-1, keepdim=True) + other_side.prod(dim=-1, keepdim=True) - intersection
    return torch.cat([offset, (other_side / side).log(), intersection / union], dim=-1)
