"""The stage of `infer` that has people detected, by a private detector service or by running ones."""

import asyncio
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import click

from cli.fingerprints import Unchanged, digest_of
from cli.stages import Product, Service, Stages
from cli.stored_names import stored_name
from stal_data.errors import ConflictError, StalError
from svc_common.config import ClientConfig


@dataclass(frozen=True, kw_only=True)
class Detector:
    """Either weights (start a private service) or services."""

    weights: Path | None
    options: tuple[str, ...]
    """Of the private service."""
    services: tuple[ClientConfig, ...]
    connection: tuple[str, ...]
    """Options of `detect` that say how to reach those services."""


def detect(
    stages: Stages,
    detector: Detector,
    *,
    folder: Path,
    store: Path,
    dataset: str,
    split: str,
    inputs: Mapping[str, str],
    videos: Unchanged,
) -> Path:
    """Have the proposals of this very detector for this very data set in the store; return their file.

    folder: of the data set `dataset`. inputs: digests of what it is made of.
    """
    if detector.weights is None:
        stem, model = _ask(detector.services)
    else:
        stem, model = detector.weights.stem, stages.digest(detector.weights)
    name = stored_name(stem, [model, *detector.options])
    proposals = store / "proposals" / dataset / split / f"{name}.h5"
    if _is_readable(proposals):
        click.echo(f"  {'detect':<40} in the store already")
        return proposals
    private = detector.weights is not None
    options = ("--weights", str(detector.weights), *detector.options)
    with Service("detector", stages.root, *options) if private else nullcontext() as service:
        addresses = service.address if service else ",".join(client.address for client in detector.services)
        stages.run(
            "detect",
            *("detect", str(folder), "--split", split, "--store", str(store), "--name", name),
            *("--detector", addresses),
            connection=() if private else detector.connection,
            inputs={"model": model, **inputs},
            products=[Product(proposals, kept=True)],
        )
    try:
        videos.check()
    except ConflictError:
        proposals.unlink()  # just made, of another content than its name says
        raise
    return proposals


def _ask(services: tuple[ClientConfig, ...]) -> tuple[str, str]:
    """Return the name and a digest of what the running services detect with."""
    from detector_svc.client import DetectorClient, DetectorClientConfig

    async def ask() -> tuple[str, str]:
        async with DetectorClient(DetectorClientConfig(services=services)) as client:
            info = await client.info()
            return info.name, digest_of(info.model)

    return asyncio.run(ask())


def _is_readable(proposals: Path) -> bool:
    from cache.proposal_store import read_proposals

    if not proposals.exists():
        return False
    try:
        read_proposals(proposals)
    except StalError:
        return False
    return True
