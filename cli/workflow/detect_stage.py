"""The stage of `infer` that has people detected, by a private detector service or by running ones."""

import asyncio
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from cli.workflow.fingerprints import Unchanged, digest_of
from cli.workflow.stages import Product, Service, Stages
from cli.workflow.stored_names import stored_name
from stal_data.dataset import Dataset
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
    track: bool
    """Whether people are followed between key frames, too."""


def private_service(detector: Detector, root: Path) -> AbstractContextManager[Service | None]:
    """Return the service that runs the detector's weights, for all its videos; None where services run already."""
    if detector.weights is None:
        return nullcontext()
    return Service("detector", root, "--weights", str(detector.weights), *detector.options)


def detect(
    stages: Stages,
    detector: Detector,
    service: Service | None,
    *,
    folder: Path,
    store: Path,
    dataset: str,
    split: str,
    inputs: Mapping[str, str],
    watched: Unchanged,
) -> Path:
    """Have the proposals of this very detector for this very data set in the store; return their file.

    service: that of `private_service`. folder: of the data set `dataset`. inputs: digests of what it is made of.
    watched: the videos, and the weights since before the service was made.
    """
    stem, model = _model(stages, detector)
    decoder = Dataset.open(folder).media.decoder
    tracking = ("--track",) if detector.track else ()
    name = stored_name(stem, [*model, *detector.options, *tracking, decoder, version("stal")])
    proposals = store / "proposals" / dataset / split / f"{name}.h5"
    if _is_readable(proposals):
        click.echo(f"  {'detect':<40} in the store already")
        return proposals

    def connection() -> tuple[str, ...]:
        if service is not None:
            return "--detector", service.address
        return ("--detector", ",".join(client.address for client in detector.services), *detector.connection)

    stages.run(
        "detect",
        *("detect", str(folder), "--split", split, "--store", str(store), "--name", name, *tracking),
        connection=connection,
        inputs={"model": digest_of(model), **inputs},
        products=[Product(proposals, kept=True)],
    )
    try:
        watched.check()
        if service is None and _model(stages, detector) != (stem, model):
            raise ConflictError("The detector service runs another model than before; run the command again.")
    except BaseException:
        proposals.unlink()  # just made, perhaps of another content than its name says
        raise
    return proposals


def _model(stages: Stages, detector: Detector) -> tuple[str, list[str]]:
    """Return the name of what detects, and all that decides about its boxes but the options."""
    from detector_svc.client.detector_client import DetectorClient, DetectorClientConfig, model_of

    if detector.weights is not None:
        return detector.weights.stem, [stages.digest(detector.weights), *_libraries()]

    async def ask() -> tuple[str, list[str]]:
        info = await DetectorClient(DetectorClientConfig(services=detector.services)).info()
        return info.name, [digest_of(model_of(info))]

    return asyncio.run(ask())


def _libraries() -> list[str]:
    """What a private service detects with, without starting one."""
    found = []
    for name in ("ultralytics", "onnxruntime", "onnxruntime-gpu"):
        with suppress(PackageNotFoundError):
            found.append(f"{name}-{version(name)}")
    return found


def _is_readable(proposals: Path) -> bool:
    from cache.proposal_store import read_proposals

    try:
        read_proposals(proposals)
    except StalError:
        return False
    return True
