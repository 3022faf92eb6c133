"""Which recognizer a command talks to."""

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import click

from cache.store import Store
from cli.ui.staging_options import StageOptions
from svc_common.config import ClientConfig

if TYPE_CHECKING:
    from recognizer_svc.client import RecognizerClient
    from recognizer_svc.local import LocalRecognizer

Recognizer: TypeAlias = "RecognizerClient | LocalRecognizer"


def recognizer_at(
    client: ClientConfig | None,
    store_url: str | None,
    *,
    data_root: Path | None = None,
    stage: StageOptions | None = None,
) -> "Recognizer":
    """The service at the address, or without one this process itself, working on the store. Use with `async with`.

    data_root: folder below which this process may read data sets. stage: where it keeps shards of a bucket.
    """
    if client is not None:
        from recognizer_svc.client import RecognizerClient

        return RecognizerClient(client)
    if store_url is None:
        raise click.UsageError("Give --store STORE, or the address of a running service with --recognizer HOST:PORT.")
    from recognizer_svc.local import LocalRecognizer

    return LocalRecognizer(Store.open(store_url, stage=None if stage is None else stage.stage()), data_root=data_root)
