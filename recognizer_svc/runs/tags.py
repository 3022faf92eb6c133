"""Tags: short names that a user gives to runs. A run's file `tags.json` holds them; the bucket's copy counts."""

from collections.abc import Sequence

from recognizer_svc.runs.store import RunStore
from recognizer_svc.runs.summary import read_tags
from stal_data.errors import InputError, NotFoundError, did_you_mean
from stal_data.files import write_atomically
from stal_data.names import check_name
from stal_data.sealed import sealed_json

MAX_TAGS = 50


def change_tags(runs: RunStore, run_id: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()) -> tuple[str, ...]:
    """Add and remove tags and return what is there then. A tag to be removed must be there."""
    run = runs.find(run_id)
    before = read_tags(run)
    if missing := [tag for tag in remove if tag not in before]:
        raise NotFoundError(f"Run '{run_id}' has no tag '{missing[0][:100]}'. {did_you_mean(missing[0], before)}")
    tags = sorted(({check_name("tag", tag) for tag in add} | set(before)) - set(remove))
    if len(tags) > MAX_TAGS:
        raise InputError(f"Run '{run_id}' would have {len(tags)} tags, but may have {MAX_TAGS} at most; remove some.")
    write_atomically(run.tags, sealed_json({"tags": tags}))
    runs.store.backend.publish(run.tags)
    return tuple(tags)
