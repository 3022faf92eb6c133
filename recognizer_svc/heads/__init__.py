"""The heads: one folder each, one line each in this table. Importing it needs no torch."""

from typing import TYPE_CHECKING

from recognizer_svc.heads.acar import ACAR
from recognizer_svc.heads.linear import LINEAR
from recognizer_svc.heads.registry import Head, HeadConfig
from recognizer_svc.heads.relation import RELATION
from stal_data.plugins import allowed_plugin
from stal_data.sections import section_of_kind

if TYPE_CHECKING:
    from torch import nn

    from recognizer_svc.heads.batch import FeatureShapes

HEADS: dict[str, Head] = {"acar": ACAR, "linear": LINEAR, "relation": RELATION}
"""By the `head.kind` of a recipe. Plugins are beside it, in the entry-point group `stal.heads`."""


def head_of(kind: object) -> Head:
    """Return the head of a kind, from the table or from a plugin that is allowed; ValueError where there is none."""
    head = HEADS.get(kind) if isinstance(kind, str) else None
    if head is None:
        found = allowed_plugin("stal.heads", kind)
        if not isinstance(found, Head):
            raise ValueError(f"kind is {kind!r}, but must be one of {', '.join(map(repr, HEADS))}")
        head = found
    return head


def head_config(values: object) -> HeadConfig:
    """Return a recipe's section as the config of its head; pydantic's errors name the fields."""
    return section_of_kind(values, HeadConfig, HEADS, lambda kind: head_of(kind).config)


def build_head(config: HeadConfig, shapes: "FeatureShapes", num_classes: int) -> "nn.Module":
    """Return a newly initialised head; see `Head.build`."""
    return head_of(config.kind).build(config, shapes, num_classes)


__all__ = ["HEADS", "Head", "HeadConfig", "build_head", "head_config", "head_of"]
