"""The few requests that a store makes of a bucket, each repeated until it has an answer."""

import hashlib
import re
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from botocore.exceptions import ClientError

from cache.object_store.client import new_client
from cache.object_store.retries import DEFAULT_LIMITS, BadReplyError, BucketError, Limits, retrying, status_of
from stal_data.errors import ConflictError, InputError, StalError

T = TypeVar("T")
Item = TypeVar("Item")

CONNECTIONS = 32
PIECE_BYTES = 8 << 20
"""Of a download: what is asked for, and after a fault asked for again, at once."""
MAX_OBJECT_BYTES = 5_000_000_000
"""Of one PUT. An object is written by one, so there is never a part of it and nothing to clean up."""

_URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?")


@dataclass(frozen=True, kw_only=True)
class BucketUrl:
    """bucket, and the prefix of every key, without slashes at its ends; may be empty."""

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, text: str) -> Self:
        found = _URL.fullmatch(text)
        prefix = "" if found is None else (found[2] or "").rstrip("/")
        if found is None or "//" in f"/{prefix}" or {".", ".."} & set(prefix.split("/")):
            raise InputError(f"The store '{text}' is not a bucket's URL; write s3://BUCKET or s3://BUCKET/PREFIX.")
        return cls(bucket=found[1], prefix=prefix)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    """key: relative to the prefix. etag: as the server gives it, without quotes."""

    key: str
    etag: str
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Object:
    """age_s: since it was written, both times by the server's clock, in whole seconds."""

    content: bytes
    etag: str
    age_s: float


class Bucket:
    """Objects below a prefix. Threads may share it, also processes that were not forked from another with one.

    Credentials, region and endpoint are those of every AWS tool: environment variables, ~/.aws, the machine's role.
    """

    def __init__(self, url: BucketUrl, *, limits: Limits = DEFAULT_LIMITS) -> None:
        self.url, self.limits = url, limits
        self._client: Any = retrying(limits, f"opening '{url}'", lambda: new_client(limits, CONNECTIONS))
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        """What tells this server from others; `aws` for Amazon's own, where a name is one bucket in all regions."""
        endpoint = str(self._client.meta.endpoint_url)
        return "aws" if re.search(r"\.amazonaws\.com(\.cn)?(:\d+)?/?$", endpoint) else endpoint

    def url_of(self, key: str) -> str:
        return f"{self.url}/{key}"

    def map(self, function: Callable[[Item], T], items: Iterable[Item]) -> list[T]:
        """Call the function for each item, several requests at once, and return the results in order.

        When one fails, no more are begun, and the error comes when none runs any more: none of them can touch a file or
        an array that the caller has given up.
        """
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(CONNECTIONS // 2, thread_name_prefix="bucket")
        futures = [self._pool.submit(function, item) for item in items]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            for future in futures:
                future.cancel()
            wait(futures)
        failed = [future for future in futures if not future.cancelled() and future.exception() is not None]
        return [future.result() for future in failed or futures]

    def objects(self, folder: str) -> list[ObjectInfo]:
        """Return every object whose key begins with `folder`, sorted by key."""
        found = []
        for page in self._pages(folder, {}):
            for item in page.get("Contents", ()):
                key = item["Key"][len(self._key("")) :]
                found.append(ObjectInfo(key=key, etag=item["ETag"].strip('"'), num_bytes=int(item["Size"])))
        return found

    def any(self, *, attempts: int) -> bool:
        """Whether there is any object."""
        return bool(self._list("", self._limits(attempts), MaxKeys=1)["KeyCount"])

    def folders(self, folder: str) -> list[str]:
        """Return the names right below `folder` (which ends in `/`) that have objects below them, sorted."""
        found = []
        for page in self._pages(folder, {"Delimiter": "/"}):
            found += [item["Prefix"].rstrip("/").rpartition("/")[2] for item in page.get("CommonPrefixes", ())]
        return found

    def get(self, key: str) -> Object | None:
        """Return a small object; None where there is none."""

        def request() -> Object:
            reply = self._call("get_object", Key=self._key(key))
            headers = reply["ResponseMetadata"]["HTTPHeaders"]
            content = bytearray(int(reply["ContentLength"]))
            self._fill(reply["Body"], [memoryview(content)])
            age = parsedate_to_datetime(headers["date"]) - reply["LastModified"]
            return Object(content=bytes(content), etag=reply["ETag"].strip('"'), age_s=age.total_seconds())

        try:
            return retrying(self.limits, f"reading '{self.url_of(key)}'", request)
        except ClientError as error:
            if status_of(error) == 404:
                return None
            raise _unexpected("reading", self.url_of(key), error) from error

    def head(self, key: str) -> ObjectInfo | None:
        """Return what is known of an object; None where there is none."""
        try:
            reply = retrying(
                self.limits, f"looking at '{self.url_of(key)}'", lambda: self._call("head_object", Key=self._key(key))
            )
        except ClientError as error:
            if status_of(error) == 404:
                return None
            raise _unexpected("looking at", self.url_of(key), error) from error
        return ObjectInfo(key=key, etag=reply["ETag"].strip('"'), num_bytes=int(reply["ContentLength"]))

    def read_end(self, key: str, num_bytes: int) -> tuple[int, bytes]:
        """Return the object's size and its last bytes, all of it where it is shorter."""

        def request() -> tuple[int, bytes]:
            reply = self._call("get_object", Key=self._key(key), Range=f"bytes=-{num_bytes}")
            content = bytearray(int(reply["ContentLength"]))
            self._fill(reply["Body"], [memoryview(content)])
            return int(reply.get("ContentRange", f"/{len(content)}").rpartition("/")[2]), bytes(content)

        return self._or_oserror(key, request)

    def read_into(self, key: str, start: int, parts: list[memoryview], etag: str | None = None) -> None:
        """Fill the buffers, one after another, with the object's bytes from `start`; OSError where it has not as many.

        etag: only of this version of the object.
        """
        size = sum(part.nbytes for part in parts)
        same = {} if etag is None else {"IfMatch": f'"{etag}"'}

        def request() -> int:
            reply = self._call("get_object", Key=self._key(key), Range=f"bytes={start}-{start + size - 1}", **same)
            length = int(reply["ContentLength"])
            if length == size:
                self._fill(reply["Body"], parts)
            else:
                reply["Body"].close()
            return length

        if (length := self._or_oserror(key, request)) != size:
            raise OSError(f"'{self.url_of(key)}' has {length} bytes at {start}, not {size}")

    def put(self, key: str, body: bytes | Path) -> str:
        """Write an object, whole or not at all, and return its etag."""
        try:
            return self._put(key, body, {})
        except ClientError as error:
            raise _unexpected("writing", self.url_of(key), error) from error

    def put_if(self, key: str, content: bytes, *, etag: str | None, attempts: int | None = None) -> str | None:
        """Write an object only where there is none (etag None) or still this one; None where that is not so.

        content: unlike what anybody else writes there, since a request whose answer was lost is made again, and then
            only the content tells that it was done the first time.
        attempts: instead of those of `limits`.
        """
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": f'"{etag}"'}
        try:
            return self._put(key, content, condition, attempts)
        except ClientError as error:
            if status_of(error) == 501:
                raise no_conditions(self.url) from error
            if status_of(error) not in (404, 409, 412):
                raise _unexpected("writing", self.url_of(key), error) from error
        found = self.get(key)
        return found.etag if found is not None and found.content == content else None

    def delete(self, key: str) -> None:
        url = self.url_of(key)
        try:
            retrying(self.limits, f"deleting '{url}'", lambda: self._call("delete_object", Key=self._key(key)))
        except ClientError as error:
            raise _unexpected("deleting", url, error) from error

    def _put(self, key: str, body: bytes | Path, condition: dict[str, str], attempts: int | None = None) -> str:
        if isinstance(body, Path) and body.stat().st_size > MAX_OBJECT_BYTES:
            raise StalError(
                f"'{body}' has {body.stat().st_size} bytes, more than the {MAX_OBJECT_BYTES} of one S3 request; "
                "choose fewer --rows-per-shard."
            )
        digest = b64encode(md5(body)).decode()

        def request() -> str:
            arguments = {"Key": self._key(key), "ContentMD5": digest, **condition}
            if isinstance(body, bytes):
                return str(self._call("put_object", Body=body, **arguments)["ETag"]).strip('"')
            with body.open("rb") as file:
                return str(self._call("put_object", Body=file, **arguments)["ETag"]).strip('"')

        return retrying(self._limits(attempts), f"writing '{self.url_of(key)}'", request)

    def _limits(self, attempts: int | None) -> Limits:
        return self.limits if attempts is None else replace(self.limits, attempts=attempts)

    def _pages(self, folder: str, options: dict[str, str]) -> Iterator[dict[str, Any]]:
        token: dict[str, str] = {}
        while True:
            page = self._list(folder, self.limits, **options, **token)
            yield page
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def _list(self, folder: str, limits: Limits, **options: Any) -> dict[str, Any]:
        url = self.url_of(folder) if folder else str(self.url)
        try:
            found: dict[str, Any] = retrying(
                limits, f"listing '{url}'", lambda: self._call("list_objects_v2", Prefix=self._key(folder), **options)
            )
        except ClientError as error:
            raise _unexpected("listing", url, error) from error
        return found

    def _or_oserror(self, key: str, request: Callable[[], T]) -> T:
        """Let a shard that is missing or too short look like a local one."""
        try:
            return retrying(self.limits, f"reading '{self.url_of(key)}'", request)
        except ClientError as error:
            if status_of(error) in (404, 412, 416):
                raise OSError(f"the bucket answers {error.response.get('Error', {}).get('Code')}") from error
            raise _unexpected("reading", self.url_of(key), error) from error

    def _fill(self, body: Any, parts: list[memoryview]) -> None:
        deadline = time.monotonic() + self.limits.reply_s(sum(part.nbytes for part in parts))
        with body as stream:  # urllib3's, whose read1 returns what has come, so that the deadline is looked at
            for part in parts:
                view, place = part.cast("B"), 0
                while place < len(view):
                    received = stream.read1(len(view) - place)
                    if not received:
                        raise BadReplyError("the reply ended early")
                    view[place : place + len(received)] = received
                    place += len(received)
                    if time.monotonic() > deadline:
                        raise BadReplyError(f"the reply came at less than {self.limits.min_bytes_per_s:g} bytes/s")

    def _call(self, operation: str, **arguments: Any) -> Any:
        return getattr(self._client, operation)(Bucket=self.url.bucket, **arguments)

    def _key(self, key: str) -> str:
        return f"{self.url.prefix}/{key}" if self.url.prefix else key


def md5(body: bytes | Path) -> bytes:
    """The header Content-MD5 lets the server refuse what was changed on the way; nothing here is a secret."""
    if isinstance(body, bytes):
        return hashlib.md5(body, usedforsecurity=False).digest()
    with body.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).digest()


def no_conditions(url: BucketUrl) -> ConflictError:
    """The error where a server does not know conditional writes, or takes them for others."""
    return ConflictError(
        f"The server of '{url}' ignores or refuses If-None-Match or If-Match on writes, without which two machines "
        "could write one shard; precompute into a local folder and upload that with the server's own tool (the layout "
        "is the same), or use another server. Reading works."
    )


def _unexpected(doing: str, url: str, error: ClientError) -> BucketError:
    return BucketError(f"{doing.capitalize()} '{url}' failed: {error}; check AWS_ENDPOINT_URL.")
