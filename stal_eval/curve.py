"""Average precision over capacities, and the means of it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class TieBounds:
    """Bounds of AP [C, K] over the orders of equal scores.

    Where no tie crosses the cut of a capacity both are attained by some order. Where one does, each is valid for every
    class on its own, but the classes may want different rows kept, so their mean is an outer bound.
    cut_key_frames_C: key frames where a capacity keeps some rows of one score and drops others.
    """

    lower_CK: NDArray[np.float64]
    upper_CK: NDArray[np.float64]
    cut_key_frames_C: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """AP of K classes at C capacities, fractions in [0,1]; NaN for a class that is not in the mean.

    capacities: increasing, 0 = no limit (last). ties: None when the bounds were not computed.
    """

    capacities: tuple[int, ...]
    ap_CK: NDArray[np.float64]
    ties: TieBounds | None

    @property
    def mean_ap_C(self) -> NDArray[np.float64]:
        """mAP: the mean over the classes that the protocol counts."""
        return mean_over_classes(self.ap_CK)

    def mean_bounds_C(self) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Lower and upper bound of mAP, None when they were not computed."""
        if self.ties is None:
            return None
        return mean_over_classes(self.ties.lower_CK), mean_over_classes(self.ties.upper_CK)

    def part(self, rows: slice) -> "Curve":
        """Return the curve of some of its capacities."""
        ties = self.ties and TieBounds(
            lower_CK=self.ties.lower_CK[rows],
            upper_CK=self.ties.upper_CK[rows],
            cut_key_frames_C=self.ties.cut_key_frames_C[rows],
        )
        return Curve(capacities=self.capacities[rows], ap_CK=self.ap_CK[rows], ties=ties)


def mean_over_classes(ap_CK: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over classes that are not NaN; 0 when all are, as where a protocol asks for predictions."""
    scored = ~np.isnan(ap_CK[0])
    if not scored.any():
        return np.zeros(len(ap_CK))
    # In one memory order, so that equal APs have the same mean to the last bit.
    return np.asarray(np.ascontiguousarray(ap_CK[:, scored]).mean(axis=1))
