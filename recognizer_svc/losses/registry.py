"""What a loss declares. Importing this needs no torch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from stal_data.sections import Section

if TYPE_CHECKING:
    from torch import Tensor


class Loss(Section):
    """The section `loss` of a recipe: a loss, and the scores that belong to it. N actors, C classes.

    targets_NC: float32, 1 where the actor performs the class, else 0.
    """

    kind: str

    def check(self, num_classes: int) -> None:
        """Refuse a label map that the loss does not fit, with an InputError."""

    def fitted(self, positives_C: Sequence[float], actors: float) -> Self:  # noqa: ARG002 - for those that need it
        """Return the loss for training on these actors. A run calls it at each start, before anything else.

        positives_C: how many actors of an epoch perform each class. actors: how many there are.
        """
        return self

    def scores(self, logits_NC: "Tensor") -> "Tensor":
        """Return scores in [0,1], [N, C]."""
        raise NotImplementedError

    def per_class(self, logits_NC: "Tensor", targets_NC: "Tensor") -> "Tensor":
        """Return the loss of each actor and class, [N, C]; where a logit is not finite, neither is the loss.

        It must not raise then: on one rank alone, the others would wait for it.
        """
        raise NotImplementedError

    def total(self, logits_NC: "Tensor", targets_NC: "Tensor") -> "Tensor":
        """Return the sum over actors of each actor's mean over the classes; 0 without actors."""
        return self.per_class(logits_NC, targets_NC).sum() / logits_NC.shape[1]
