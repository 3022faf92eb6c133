"""The client of boto3 behind a bucket."""

import logging
import os
import threading
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from cache.object_store.retries import Limits
from stal_data.errors import InputError
from stal_data.hosts import is_loopback

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
"""Variables with the server's address; the first counts."""

# It prints a traceback when a login has expired; the error that follows says the same.
logging.getLogger("botocore.credentials").setLevel(logging.ERROR)

_session_lock = threading.Lock()


def new_client(limits: Limits, connections: int) -> Any:
    """Return a client that threads may share, for so many requests at once; an address that is none is an error."""
    # Retries are ours, because they must cover the reply's body; so must checksums, which some servers refuse.
    config = Config(
        connect_timeout=limits.connect_s,
        read_timeout=limits.silence_s,
        max_pool_connections=connections,
        retries={"total_max_attempts": 1},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        tcp_keepalive=True,
    )
    with _session_lock:  # clients may be shared by threads, sessions not
        try:
            client = boto3.client("s3", config=config)
            if is_loopback(urlsplit(client.meta.endpoint_url).hostname or ""):  # no proxy stands before this machine
                client = boto3.client("s3", config=config.merge(Config(proxies={})))
            return client
        except BotoCoreError:  # some are ValueErrors, too
            raise
        except ValueError as error:
            where = next((name for name in _ENDPOINTS if os.environ.get(name)), "endpoint_url in ~/.aws/config")
            raise InputError(
                f"The server's address in {where} is not a URL ({error}); write http://HOST:PORT or https://HOST, "
                "as in http://localhost:9000."
            ) from error
