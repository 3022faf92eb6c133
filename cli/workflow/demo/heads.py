"""The heads that the demo compares, trained on one cache."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DemoHead:
    """name: of its runs and files. title: in tables. overrides: `--set` values beside the recipe.

    processes: that train it. drawn: whether the figures show it.
    """

    name: str
    title: str
    recipe: str
    overrides: tuple[str, ...] = ()
    processes: int = 1
    drawn: bool = True


BASELINE = "linear"
HEADS = {
    head.name: head
    for head in (
        DemoHead(name="relation", title="relation", recipe="relation"),
        DemoHead(
            name="relation-means",
            title="relation, time means only",
            recipe="relation",
            overrides=("data.statistics=[mean]",),
            drawn=False,
        ),
        DemoHead(name="acar", title="ACAR", recipe="acar", processes=2),
        DemoHead(
            name="acar-published",
            title="ACAR, as published",
            recipe="acar",
            overrides=(
                "head={kind: acar, reduce_channels: 64, context_channels: 48, depth: 1}",
                "data.statistics=[mean, moments]",
                "data.streams=null",
                "training.epochs=10",
            ),
            drawn=False,
        ),
        DemoHead(name=BASELINE, title="linear", recipe="linear"),
    )
}
"""By name; the first is the one whose actions are drawn."""
