"""The stage of a workflow that fills the feature cache. It never deletes a set: others may use it."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cache.backbones import backbone_of
from cli.workflow.fingerprints import FEATURE_SET_PARTS
from cli.workflow.stages import Product, Stages
from recognizer_svc.runs.run_dir import RunDir
from recognizer_svc.runs.trained_on import features_trained_on


def precompute(
    stages: Stages,
    name: str,
    *words: str,
    store: Path,
    dataset: str,
    split: str,
    inputs: Mapping[str, str],
    check: Callable[[], None] = lambda: None,
) -> list[Product]:
    """Run `stal-cli precompute WORDS` as the stage `name` and return the feature sets, in the order of the views.

    store, dataset, split: where the command is told to put them. The path of a set ends with its id.
    check: called first where the stage is to run; raises where its features would be of no use.
    """
    line = re.compile(rf"{re.escape(dataset)}/{re.escape(split)}/([0-9a-f]+): ")
    folder = store / "features" / dataset / split

    def made() -> list[Product]:
        """What the command said at its end."""
        log = stages.log(name)
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        return [Product(folder / set_id, FEATURE_SET_PARTS, kept=True) for set_id in line.findall(text)]

    def checked() -> Sequence[str]:
        check()
        return ()

    stages.run(name, "precompute", *words, inputs=inputs, products=made, connection=checked)
    return made()


def as_trained(run: RunDir, kinds: Sequence[str]) -> list[str]:
    """Return the options of precompute for features that the run's head can read."""
    found = features_trained_on(run)
    if found is None:
        return []
    spec, given = found
    words = [] if spec.autocast == "none" else ["--autocast", spec.autocast]
    for backbone in (item for item in spec.backbones if item.kind in kinds):
        for name in backbone.statistics:
            # Of all time steps, what the head is given serves it.
            arrays = [array for array, stored in backbone.readable.items() if array.name in (stored, *given)]
            wanted = tuple(array.word for array in arrays if array.map == name)
            if wanted != backbone_of(backbone.kind).maps[name]:
                words += ["--statistics", f"{name}={','.join(wanted)}"]
    return words
