"""`stal-cli doctor`: what this machine can run, and what would get in its way."""

import platform
import sys
from importlib import metadata, util

import click

EXTRAS = {
    "media": ("PIL", "av"),
    "stores": ("zarr", "h5py", "google_crc32c"),
    "services": ("grpc", "grpc_health", "prometheus_client"),
    "torch": ("torch", "torchvision", "safetensors"),
    "precompute": ("timm",),
    "detector": ("ultralytics",),
    "onnx": ("onnxruntime", "onnx"),
    "recognizer": ("tensorboard",),
    "evaluation": ("numba",),
    "report": ("matplotlib",),
}
# Our import packages with names generic enough to be someone else's too.
GENERIC_PACKAGES = ("cache", "cli", "protos", "recipes")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
def doctor() -> None:
    """Check this installation: versions, extras, GPUs, and packages of other projects that shadow ours.

    Exits with 1 when something would break a command.
    """
    click.echo(f"stal {metadata.version('stal')}, Python {platform.python_version()}, {platform.platform()}")
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if util.find_spec(module) is None]
        state = "ok" if not missing else f"missing {', '.join(missing)}: pip install 'stal[{extra}]'"
        click.echo(f"  {extra:<12} {state}")
    click.echo(f"  {'devices':<12} {_devices()}")
    shadows = find_shadows()
    for shadow in shadows:
        click.echo(f"Problem: {shadow}", err=True)
    if shadows:
        sys.exit(1)


def _devices() -> str:
    if util.find_spec("torch") is None:
        return "unknown without torch"
    import torch

    count = torch.cuda.device_count()
    if count == 0:
        return f"CPU only, {torch.get_num_threads()} threads (torch {torch.__version__})"
    return ", ".join(torch.cuda.get_device_name(index) for index in range(count)) + f" (torch {torch.__version__})"


def find_shadows() -> list[str]:
    """Return a sentence for each package name of ours that another installed distribution provides too."""
    owners = metadata.packages_distributions()
    return [
        f"the import package '{name}' is also provided by {', '.join(others)}: uninstall it, or use a virtual "
        "environment of stal's own"
        for name in GENERIC_PACKAGES
        if (others := sorted(set(owners.get(name, ())) - {"stal"}))
    ]
