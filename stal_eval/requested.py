"""Figures that are computed only when somebody asks for them."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stal_data.errors import InputError, did_you_mean
from stal_eval.ious import parse_ious
from stal_eval.tubes.protocol import TUBE_PROTOCOLS


@dataclass(frozen=True, kw_only=True)
class Requested:
    """ious: also mAP at these IoUs, as numbers or as text, `0.5,0.75` or `0.5:0.95`; the headline keeps its own.

    groups: also mAP by label type and by box size. confusion: also which class scores best on each ground-truth box.
    These three are at the reported capacity. tubes: also video-mAP by the rules of `moc` or `ucf101-24`; both tables
    need persons then. segments: also segment-F1 of two files, predicted and annotated segments.
    """

    ious: str | Iterable[float] = ()
    groups: bool = False
    confusion: bool = False
    tubes: str | None = None
    segments: tuple[Path | str, Path | str] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "ious", parse_ious(self.ious))
        if self.tubes not in (None, *TUBE_PROTOCOLS):
            raise InputError(
                f"There is no tube protocol '{self.tubes}'. {did_you_mean(str(self.tubes), TUBE_PROTOCOLS)}"
            )
