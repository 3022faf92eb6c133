"""Single requests against a server that fails in every way the proxy can."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import boto3
import pytest

from cache.object_store.bucket import Bucket, BucketUrl
from stal_data.errors import InputError, NotFoundError, StalError
from tests.cache.object_store.conftest import PATIENT, QUICK
from tests.cache.object_store.s3_server import FaultProxy, Request, Rule

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def bucket(proxy: FaultProxy) -> Bucket:
    return Bucket(BucketUrl.parse("s3://cache/a/b"), limits=PATIENT)


@pytest.fixture
def hasty(proxy: FaultProxy) -> Bucket:
    """One that soon gives up waiting for a reply, and asks again."""
    return Bucket(BucketUrl.parse("s3://cache/a/b"), limits=QUICK)


@pytest.fixture
def new_session() -> Iterator[None]:
    """Let boto3 read the environment again, which it does once for its default session."""
    boto3.setup_default_session()
    yield
    boto3.setup_default_session()


def first(fault: str, times: int = 2) -> Rule:
    """The first requests fail."""
    number = count()
    return lambda request: fault if next(number) < times else None


def read_part(bucket: Bucket) -> bytes:
    part, rest = bytearray(100), bytearray(50)
    bucket.read_into("x", 1000, [memoryview(part), memoryview(rest)])
    return bytes(part + rest)


READS: dict[str, tuple[Callable[[Bucket], object], object]] = {
    "get": (lambda bucket: getattr(bucket.get("x"), "content", None), CONTENT),
    "range": (read_part, CONTENT[1000:1150]),
    "end": (lambda bucket: bucket.read_end("x", 10), (len(CONTENT), CONTENT[-10:])),
    "list": (lambda bucket: [info.key for info in bucket.objects("")], ["x"]),
    "head": (lambda bucket: getattr(bucket.head("x"), "num_bytes", None), len(CONTENT)),
}


# Listings and heads have no body, or one that the library reads as a whole.
CASES = [(name, fault) for name in READS for fault in ("500", "503", "reset", "lost", "hang")]
CASES += [(name, fault) for name in ("get", "range", "end") for fault in ("truncate", "trickle")]


@pytest.mark.parametrize(("name", "fault"), CASES)
def test_reads_survive(hasty: Bucket, proxy: FaultProxy, name: str, fault: str) -> None:
    read, expected = READS[name]
    hasty.put("x", CONTENT)
    proxy.rule = first(fault, 1 if fault in ("hang", "trickle") else 2)
    assert read(hasty) == expected


@pytest.mark.parametrize("fault", ["500", "503", "reset", "lost", "hang"])
def test_writes_survive(hasty: Bucket, proxy: FaultProxy, fault: str) -> None:
    proxy.rule = first(fault, 1 if fault == "hang" else 2)
    hasty.put("x", CONTENT)
    proxy.rule = first(fault, 1)
    assert hasty.put_if("new", b"mine", etag=None) is not None
    found = hasty.get("x")
    assert found is not None
    assert found.content == CONTENT


def test_a_conditional_write_whose_answer_was_lost_counts_as_done(bucket: Bucket, proxy: FaultProxy) -> None:
    proxy.rule = first("lost", 1)
    etag = bucket.put_if("claim", b"mine", etag=None)
    assert etag is not None
    assert [request.method for request in proxy.log] == ["PUT", "PUT", "GET"]
    proxy.rule = first("lost", 1)
    assert bucket.put_if("claim", b"mine again", etag=etag) is not None


def test_conditions_are_kept(bucket: Bucket) -> None:
    etag = bucket.put_if("claim", b"mine", etag=None)
    assert etag is not None
    assert bucket.put_if("claim", b"theirs", etag=None) is None
    assert bucket.put_if("claim", b"theirs", etag="0" * 32) is None
    newer = bucket.put_if("claim", b"mine again", etag=etag)
    assert newer is not None
    assert bucket.put_if("claim", b"late", etag=etag) is None
    assert bucket.put_if("none", b"x", etag=etag) is None


def test_a_fault_that_does_not_pass_names_the_object_and_the_way_out(bucket: Bucket, proxy: FaultProxy) -> None:
    proxy.rule = lambda request: "500"
    with pytest.raises(
        StalError, match=r"Reading 's3://cache/a/b/x' failed 6 times.*InternalError.*run the same command"
    ):
        bucket.get("x")
    assert len(proxy.log) == PATIENT.attempts


def test_attempts_end_with_the_time_that_is_given(proxy: FaultProxy) -> None:
    """Where each waits for a reply that does not come, all twelve would take minutes."""
    proxy.rule = lambda request: "hang"
    limits = replace(QUICK, attempts=100, silence_s=0.2, give_up_s=0.5)
    with pytest.raises(StalError, match=r"failed \d\d? times in .* s, last with"):
        Bucket(BucketUrl.parse("s3://cache/a/b"), limits=limits).get("x")


def test_a_missing_object_is_no_fault(bucket: Bucket, proxy: FaultProxy) -> None:
    assert bucket.get("x") is None
    assert bucket.head("x") is None
    bucket.delete("x")
    with pytest.raises(OSError, match="NoSuchKey"):
        bucket.read_end("x", 10)
    assert len(proxy.log) == 4


def test_a_range_beyond_the_end_is_an_error(bucket: Bucket) -> None:
    bucket.put("x", b"0123456789")
    for start in (5, 50):
        with pytest.raises(OSError, match=r"bytes at|InvalidRange"):
            bucket.read_into("x", start, [memoryview(bytearray(10))])


@pytest.mark.usefixtures("new_session")
def test_a_missing_bucket_and_missing_credentials_are_named(proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFoundError, match=r"s3://other/x.*no such bucket.*AWS_ENDPOINT_URL"):
        Bucket(BucketUrl.parse("s3://other"), limits=QUICK).objects("x")
    boto3.setup_default_session()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(InputError, match=r"s3://cache/x.*credentials.*AWS_PROFILE"):
        Bucket(BucketUrl.parse("s3://cache"), limits=QUICK).objects("x")


@pytest.mark.usefixtures("new_session")
@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_an_endpoint_without_a_scheme_is_named(
    proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "localhost:9000")
    with pytest.raises(InputError, match=rf"in {variable} is not a URL .*localhost:9000\); write http://HOST:PORT"):
        Bucket(BucketUrl.parse("s3://cache"), limits=QUICK)


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_a_server_on_this_machine_is_reached_past_every_proxy(
    proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nobody listens there
    assert not Bucket(BucketUrl.parse("s3://cache"), limits=QUICK).any(attempts=1)


@pytest.mark.usefixtures("new_session")
def test_an_expired_login_says_how_to_log_in(
    proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A profile of a single sign-on whose token is not there (any more)."""
    config = tmp_path / "config"
    config.write_text(
        "[profile lab]\nsso_start_url = https://lab.example/start\nsso_region = us-east-1\n"
        "sso_account_id = 123456789012\nsso_role_name = reader\n"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name, value in (("HOME", tmp_path), ("AWS_CONFIG_FILE", config), ("AWS_PROFILE", "lab")):
        monkeypatch.setenv(name, str(value))
    boto3.setup_default_session()
    with pytest.raises(
        InputError, match=r"Listing 's3://cache' is not possible: .*SSO.*log in again \('aws sso login'"
    ):
        Bucket(BucketUrl.parse("s3://cache"), limits=QUICK).any(attempts=1)
    assert proxy.log == []


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(lambda bucket: bucket.any(attempts=1), id="any"),
        pytest.param(lambda bucket: bucket.objects(""), id="list"),
        pytest.param(lambda bucket: bucket.delete("x"), id="delete"),
        pytest.param(lambda bucket: bucket.put("x", b""), id="put"),
    ],
)
def test_an_answer_that_makes_no_sense_names_the_endpoint(
    bucket: Bucket, proxy: FaultProxy, request_: Callable[[Bucket], object]
) -> None:
    proxy.rule = lambda request: "501"
    with pytest.raises(StalError, match=r"s3://cache/a/b.* failed: .*NotImplemented.*AWS_ENDPOINT_URL"):
        request_(bucket)


def test_listing_goes_on_over_pages(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        bucket.put(f"d/{number}/x", b"")
    call = bucket._call
    monkeypatch.setattr(bucket, "_call", lambda name, **arguments: call(name, MaxKeys=2, **arguments))
    assert [info.key for info in bucket.objects("d/")] == [f"d/{number}/x" for number in range(5)]
    assert bucket.folders("d/") == [str(number) for number in range(5)]


def test_connections_are_used_again(bucket: Bucket, proxy: FaultProxy) -> None:
    bucket.put("x", CONTENT)
    for _ in range(5):
        bucket.get("x")
        read_part(bucket)
    assert proxy.num_connections == 1


@pytest.mark.parametrize("text", ["s3://", "s3://UPPER/x", "s3://a", "s3://bucket//x", "s3://bucket/../x"])
def test_bad_urls_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="write s3://BUCKET"):
        BucketUrl.parse(text)


def test_urls_are_normalised() -> None:
    assert str(BucketUrl.parse("s3://bucket/a/b/")) == "s3://bucket/a/b"
    assert str(BucketUrl.parse("s3://bucket/")) == str(BucketUrl.parse("s3://bucket")) == "s3://bucket"


def test_the_proxy_really_damages(bucket: Bucket, proxy: FaultProxy) -> None:
    """Else the tests of damage would pass for nothing."""
    bucket.put("x", CONTENT)

    def flip(request: Request) -> str:
        return "flip"

    proxy.rule = flip
    found = bucket.get("x")
    assert found is not None
    assert found.content != CONTENT


def test_no_request_of_many_is_left_running_after_an_error(bucket: Bucket) -> None:
    others, failing = threading.Event(), threading.Event()
    finished: list[int] = []

    def work(item: int) -> int:
        if item == 0:
            assert others.wait(60)
            failing.set()
            raise InputError("this one failed")
        others.set()
        assert failing.wait(60)
        finished.append(item)
        return item

    with pytest.raises(InputError, match="this one failed"):
        bucket.map(work, range(100))
    running_then = list(finished)
    assert running_then
    assert bucket.map(str, range(3)) == ["0", "1", "2"]
    assert finished == running_then
