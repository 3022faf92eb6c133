"""Fixtures: an empty bucket behind a real HTTP server that injects faults, and stores in it."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from cache.object_store import bucket, mirror
from cache.object_store.bucket import Bucket
from cache.object_store.retries import Limits
from cache.store import Stage, Store
from tests.cache.object_store.s3_server import FaultProxy, backend, s3_server

URL = "s3://cache/some/store"
QUICK = Limits(attempts=6, first_wait_s=0.01, longest_wait_s=0.05, silence_s=0.3, min_bytes_per_s=1e6)
PATIENT = Limits(attempts=6, first_wait_s=0.01, longest_wait_s=0.05)
"""For the tests in which no request hangs: a busy machine must not look like a slow server."""

OpenStore = Callable[..., Store]


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultProxy]:
    """The proxy before an empty bucket `cache`; the environment names it as the endpoint."""
    with s3_server() as proxy:
        for name, value in {
            "AWS_ENDPOINT_URL": proxy.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": str(tmp_path / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
            "XDG_CACHE_HOME": str(tmp_path / "xdg"),
            "NO_PROXY": "127.0.0.1",
        }.items():
            monkeypatch.setenv(name, value)
        backend().create_bucket("cache", "us-east-1")
        yield proxy


@pytest.fixture
def fill(proxy: FaultProxy) -> Callable[[Path], None]:
    """Return a function that puts the files of a local store into the bucket, as any tool would."""

    def put(root: Path) -> None:
        for path in root.rglob("*"):
            if path.is_file() and ".locks" not in path.parts:
                key = f"{URL.removeprefix('s3://cache/')}/{path.relative_to(root).as_posix()}"
                backend().put_object("cache", key, path.read_bytes())

    return put


@pytest.fixture
def full(fill: Callable[[Path], None], ten_rows: Path) -> None:
    """Have a complete set of 10 rows in shards of 4 in the bucket."""
    fill(ten_rows.parents[3])


@pytest.fixture
def machine(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> OpenStore:
    """Return a function that opens the store as another machine would: with a mirror of its own name."""
    monkeypatch.setattr(mirror, "Bucket", partial(Bucket, limits=PATIENT))
    monkeypatch.setattr(bucket, "CONNECTIONS", 6)  # client, proxy and server share one interpreter lock here

    def open_store(name: str = "one", stage_bytes: int | None = None) -> Store:
        return Store.open(URL, create=True, stage=Stage(folder=tmp_path / name, limit_bytes=stage_bytes))

    return open_store
