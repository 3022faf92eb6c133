"""What a loss declares. Importing this needs no torch."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self

from stal_data.sections import Section

if TYPE_CHECKING:
    from torch import Tensor


class Loss(Section):
    """The section `loss` of a recipe: a loss, and the scores that belong to it. N actors, C classes.

    targets_NC: float32, 1 where the actor performs the class, else 0.
    """

    kind: str

    def check(self, num_classes: int, labelled: Mapping[str, Sequence[bool]] | None = None) -> None:
        """Refuse a label map that the loss does not fit, with an InputError.

        labelled: where there are several data sets, which classes each labels, by its name.
        """

    def fitted(self, positives_C: Sequence[float], actors_C: Sequence[float]) -> Self:  # noqa: ARG002 - for some
        """Return the loss for training on these actors. A run calls it at each start, before anything else.

        positives_C: how many actors of an epoch perform each class. actors_C: how many there are whose data set labels
        it.
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

    def total(self, logits_NC: "Tensor", targets_NC: "Tensor", labelled_NC: "Tensor | None" = None) -> "Tensor":
        """Return the sum over actors of each actor's mean over the classes; 0 without actors.

        labelled_NC: bool, at least one class of each actor; the mean is over these. None = all.
        """
        loss_NC = self.per_class(logits_NC, targets_NC)
        if labelled_NC is None:
            return loss_NC.sum() / logits_NC.shape[1]
        return (loss_NC * labelled_NC / labelled_NC.sum(dim=1, keepdim=True)).sum()
