"""Fixtures: an empty bucket on a real HTTP server behind a proxy that injects faults, and stores in it."""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import boto3
import pytest

from cache.object_store import mirror
from cache.object_store.bucket import Bucket
from cache.object_store.retries import Limits
from cache.store import Stage, Store
from tests.cache.object_store.s3_server import FaultProxy, s3_server

URL = "s3://cache/some/store"
QUICK = Limits(attempts=6, first_wait_s=0.01, longest_wait_s=0.05, silence_s=0.3, min_bytes_per_s=1e6)
PATIENT = Limits(attempts=6, first_wait_s=0.01, longest_wait_s=0.05)
"""For the tests in which no request hangs: a busy machine must not look like a slow server."""

OpenStore = Callable[..., Store]


@pytest.fixture(scope="session")
def moto_server() -> Iterator[tuple[str, int]]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with s3_server() as where:
        yield where


@pytest.fixture
def proxy(moto_server: tuple[str, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FaultProxy]:
    """The proxy before an empty bucket `cache`; the environment names it as the endpoint."""
    proxy = FaultProxy(moto_server)
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
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{moto_server[1]}")
    client.create_bucket(Bucket="cache")
    yield proxy
    for item in client.list_objects_v2(Bucket="cache").get("Contents", ()):
        client.delete_object(Bucket="cache", Key=item["Key"])
    client.delete_bucket(Bucket="cache")
    client.close()
    proxy.stop()


@pytest.fixture
def machine(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> OpenStore:
    """Return a function that opens the store as another machine would: with a mirror of its own name."""
    monkeypatch.setattr(mirror, "Bucket", partial(Bucket, limits=PATIENT))

    def open_store(name: str = "one", stage_bytes: int | None = None) -> Store:
        return Store.open(URL, create=True, stage=Stage(folder=tmp_path / name, limit_bytes=stage_bytes))

    return open_store
