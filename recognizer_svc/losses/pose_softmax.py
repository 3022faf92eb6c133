"""One of the poses, and each other class for itself: the published loss."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from recognizer_svc.losses.registry import Loss
from stal_data.errors import InputError
from stal_data.labels import MAX_LABELS

if TYPE_CHECKING:
    from torch import Tensor


class PoseSoftmax(Loss):
    """Binary cross-entropy of each score; the poses' scores add up to 1.

    They do so for a person without a pose, too, such as a detected box that is nobody's (`data.boxes`): the loss is
    least where all poses score 1 / num_poses, and the other classes 0.
    """

    kind: Literal["pose_softmax"] = "pose_softmax"
    num_poses: int = Field(default=13, ge=1, le=MAX_LABELS)
    """Number of first classes of which a person has exactly one: softmax over them, sigmoid over the rest."""

    def check(self, num_classes: int, labelled: Mapping[str, Sequence[bool]] | None = None) -> None:
        if self.num_poses > num_classes:
            raise InputError(
                f"loss.num_poses is {self.num_poses}, but the label map has {num_classes} classes; "
                "choose at most that many, or loss.kind=sigmoid."
            )
        for name, labelled_C in (labelled or {}).items():
            if 0 < sum(labelled_C[: self.num_poses]) < self.num_poses:
                # Through the softmax, each pose that is labelled would teach the others.
                raise InputError(
                    f"loss.kind is pose_softmax, but {name} labels {sum(labelled_C[: self.num_poses])} of the "
                    f"{self.num_poses} poses, and each data set must label all or none; choose loss.kind=sigmoid."
                )

    def scores(self, logits_NC: "Tensor") -> "Tensor":
        import torch

        poses, others = logits_NC[:, : self.num_poses], logits_NC[:, self.num_poses :]
        return torch.cat([poses.softmax(dim=1), others.sigmoid()], dim=1)

    def per_class(self, logits_NC: "Tensor", targets_NC: "Tensor") -> "Tensor":
        import torch.nn.functional as F  # noqa: N812

        # The function raises on NaN, so that is put back after it.
        probabilities_NC = self.scores(logits_NC).nan_to_num(nan=0.5)
        return F.binary_cross_entropy(probabilities_NC, targets_NC, reduction="none") + 0 * logits_NC
