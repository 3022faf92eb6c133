"""Doing a request again after a fault that passes, and saying what is wrong where it does not pass."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    HTTPClientError,
    IncompleteReadError,
    ReadTimeoutError,
)
from botocore.exceptions import ConnectionError as NoConnectionError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError
from urllib3.exceptions import ReadTimeoutError as BodyTimeoutError

from stal_data.errors import InputError, NotFoundError, StalError

T = TypeVar("T")

_PASSING = {
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "OperationAborted",
    "RequestLimitExceeded",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "TooManyRequests",
}
ANSWERS = (404, 409, 412, 416, 501)
"""Not found, a condition that does not hold (twice), a range outside the object, a condition that is not known."""

_SETTINGS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the machine a role; where a login has "
    "expired, log in again ('aws sso login'); else check AWS_ENDPOINT_URL, the other AWS_ variables and ~/.aws/config"
)


class BadReplyError(Exception):
    """A reply that ended early, or still trickles in but would take too long."""


class BucketError(StalError):
    """The bucket gives no answer, or none that helps: whatever else it is asked now is likely to end the same way."""


class _RefusedError(BucketError, InputError):
    """For want of rights or settings."""


class _NoBucketError(BucketError, NotFoundError):
    pass


_NETWORK = (
    NoConnectionError,
    HTTPClientError,
    IncompleteReadError,
    ResponseParserError,
    HTTPError,
    ConnectionError,
    TimeoutError,
    BadReplyError,
)

_SILENCE = (ConnectTimeoutError, ReadTimeoutError, BodyTimeoutError, TimeoutError)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """attempts: of one request, the first included. first_wait_s doubles up to longest_wait_s; each is shortened at
    random by up to half, so that many machines do not come back at once.

    connect_s, silence_s: without a connection, or without a byte of the reply, a request has failed.
    min_bytes_per_s: so has a reply slower than this, after `silence_s`.
    give_up_s: after so much waiting for nobody no attempt but the second is begun: twelve of these would take minutes.
    """

    attempts: int = 12
    first_wait_s: float = 0.2
    longest_wait_s: float = 20.0
    connect_s: float = 10.0
    silence_s: float = 30.0
    min_bytes_per_s: float = 100e3
    give_up_s: float = 120.0

    def reply_s(self, num_bytes: int) -> float:
        """Return the longest that a reply of so many bytes may take."""
        return self.silence_s + num_bytes / self.min_bytes_per_s


DEFAULT_LIMITS = Limits()


def retrying(limits: Limits, what: str, request: Callable[[], T]) -> T:
    """Return what `request` returns, after as many attempts as it takes; what: e.g. `reading 's3://bucket/key'`.

    BucketError where there is no good one. An answer in ANSWERS comes back as the ClientError that it is: it means
    something to the caller.
    """
    wait_s, silent_s, begin_s = limits.first_wait_s, 0.0, time.monotonic()
    for attempt in range(1, limits.attempts + 1):
        attempt_s = time.monotonic()
        try:
            return request()
        except (BotoCoreError, ClientError, *_NETWORK) as error:
            if not _passes(error):
                raise _explained(what, error) from error
            silent = isinstance(error, _SILENCE)
            if silent:  # a large object may have moved for long before
                silent_s += min(time.monotonic() - attempt_s, limits.connect_s + limits.silence_s)
            if attempt == limits.attempts or (attempt > 1 and silent_s > limits.give_up_s):
                tried_s = time.monotonic() - begin_s
                raise BucketError(
                    f"{what[0].upper()}{what[1:]} failed {attempt} times in {tried_s:.0f} s, last with: {error}. What "
                    "was finished before is safe; run the same command again when the network or the server is well."
                ) from error
        pause_s = wait_s * random.uniform(0.5, 1.0)
        time.sleep(pause_s)
        silent_s += pause_s if silent else 0.0
        wait_s = min(2 * wait_s, limits.longest_wait_s)
    raise AssertionError("unreachable")


def status_of(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _passes(error: Exception) -> bool:
    if isinstance(error, ClientError):
        status, code = status_of(error), error.response.get("Error", {}).get("Code")
        return code in _PASSING or status in (408, 429) or (status >= 500 and status != 501)
    return isinstance(error, _NETWORK)


def _explained(what: str, error: Exception) -> Exception:
    """Return the error to raise instead: ours where the user can do something, else the error itself."""
    what = f"{what[0].upper()}{what[1:]}"
    if isinstance(error, BotoCoreError):  # no request was made: credentials, an expired login, a setting
        return _RefusedError(f"{what} is not possible: {str(error).rstrip('.')}; {_SETTINGS}.")
    answer = getattr(error, "response", {}).get("Error", {})
    code, message = answer.get("Code", ""), answer.get("Message", "")
    if status_of(error) in ANSWERS:
        if code == "NoSuchBucket":
            return _NoBucketError(
                f"{what} failed: there is no such bucket; make it first, or check the name and AWS_ENDPOINT_URL."
            )
        return error
    return _RefusedError(
        f"{what} was refused with {status_of(error)} {code} {message}; check the "
        "credentials, their rights on the bucket (list, get, put, delete), AWS_REGION and AWS_ENDPOINT_URL."
    )
