"""What an error says about deleting a feature set. Importing this is cheap."""

import shlex
from pathlib import Path

from cache.object_store import mirror_of_set


def how_to_delete(path: Path) -> str:
    """Return the words of an error for deleting the feature set in folder `path`; prune refuses buckets."""
    if (mirror := mirror_of_set(path)) is not None:
        url = mirror.bucket.url_of(mirror.key_of(path.absolute()))
        return f"delete everything below '{url}/' with the server's own tool when no job uses it"
    if len(path.absolute().parents) < 4:
        return f"delete the folder '{path}'"
    split, dataset, _, root = path.absolute().parents[:4]
    # The id alone would also fit the same spec's sets of other splits.
    which = f"--set {path.name} --dataset {dataset.name} --split {split.name}"
    return f"delete the set with 'stal-cli cache prune {shlex.quote(str(root))} {which}'"
