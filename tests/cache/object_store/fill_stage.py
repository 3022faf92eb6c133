"""Stages shards on a file system of 8 MB that is nearly full; see test_stage.py.

Arguments: an empty folder to mount on, and the URL of a store with a set of rows in one shard.
"""

import sys
from pathlib import Path

import pytest

from cache.feature_store import DamagedError, open_feature_set
from cache.store import Stage, Store
from stal_data.errors import StalError
from tests.cache.samples import make_features
from tests.cache.small_disk import fill, mount


def main(disk: Path, url: str) -> None:
    mount(disk)
    store = Store.open(url, stage=Stage(folder=disk / "stage", limit_bytes=10**9))
    features = open_feature_set(store, "street", "test")
    num_rows = features.manifest.num_rows
    features.marks()
    # Room for nothing, for a part of the first array, and for a part of the third.
    for left in (0, 3 * 4096, 100_000):
        ballast = fill(disk, left=left)
        with pytest.raises(StalError, match=r"could not be staged: No space left on device.*--stage-limit") as raised:
            features.read(range(num_rows))
        assert not isinstance(raised.value, DamagedError)
        assert not list(disk.rglob(".*.partial"))
        ballast.unlink()
    assert (features.read(range(num_rows))["slow"] == make_features(num_rows)["slow"]).all()
    print("done")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
