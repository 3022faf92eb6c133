"""The stage of a workflow that fills the feature cache. It never deletes a set: others may use it."""

import re
from collections.abc import Mapping
from pathlib import Path

from cli.workflow.fingerprints import FEATURE_SET_PARTS
from cli.workflow.stages import Product, Stages


def precompute(
    stages: Stages, name: str, *words: str, store: Path, dataset: str, split: str, inputs: Mapping[str, str]
) -> list[Product]:
    """Run `stal-cli precompute WORDS` as the stage `name` and return the feature sets, in the order of the views.

    store, dataset, split: where the command is told to put them. The path of a set ends with its id.
    """
    line = re.compile(rf"{re.escape(dataset)}/{re.escape(split)}/([0-9a-f]+): ")
    folder = store / "features" / dataset / split

    def made() -> list[Product]:
        """What the command said at its end."""
        log = stages.log(name)
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        return [Product(folder / set_id, FEATURE_SET_PARTS, kept=True) for set_id in line.findall(text)]

    stages.run(name, "precompute", *words, inputs=inputs, products=made)
    return made()
