"""`stal-cli doctor`: what this machine can run, and what would get in its way."""

import platform
import re
import sys
from collections import defaultdict
from importlib import metadata, util

import click

from cli.commands.doctor_machine import check_devices, check_localhost, check_port, check_proxies
from cli.commands.doctor_store import check_store
from cli.ui.json_output import json_option, print_json
from stal_data.errors import how_to_install

# Our import packages with names generic enough to be someone else's too.
GENERIC_PACKAGES = ("cache", "cli", "protos", "recipes")
_NOT_RUN = ("all", "dev", "docs")
"""Extras that no machine of an installation needs by itself."""
_REQUIREMENT = re.compile(r"([\w.-]+)(\[.*?\])?.*\bextra == ['\"]([\w-]+)['\"]")


@click.command()
@click.option("--store", help="Folder or s3:// URL of the store that this machine is to write to.")
@click.option(
    "--port",
    "ports",
    type=click.IntRange(1, 65535),
    multiple=True,
    default=(50051, 50052),
    show_default=True,
    help="Port of a service that is to run here; repeat for several.",
)
@json_option
def doctor(store: str | None, ports: tuple[int, ...], as_json: bool) -> None:
    """Check this machine: versions, extras, GPUs, ports, the name localhost, proxies, and packages of other projects
    that shadow ours; with --store also whether it can be written and its locks hold.

    Exits with 1 when something would break a command, and says what to do about it. An extra that is not installed is
    none of these: no machine needs all of them.

    \b
    Examples:
      stal-cli doctor
      stal-cli doctor --store shared-store
    """
    versions = {"stal": metadata.version("stal"), "Python": platform.python_version(), "platform": platform.platform()}
    extras = {
        extra: "ok" if not missing else f"missing {', '.join(missing)}; {how_to_install(extra)}"
        for extra, missing in missing_by_extra(metadata.requires("stal") or []).items()
    }
    checks = {
        "devices": check_devices(),
        **{f"port {port}": check_port(port) for port in ports},
        "localhost": check_localhost(),
        "proxies": check_proxies(),
        **({} if store is None else {"store": check_store(store)}),
    }
    states = {name: state for name, (state, _) in checks.items()}
    problems = [*find_shadows(), *(problem for _, found in checks.values() for problem in found)]
    if as_json:
        print_json({"versions": versions, "extras": extras, "checks": states, "problems": problems})
    else:
        click.echo(f"stal {versions['stal']}, Python {versions['Python']}, {versions['platform']}")
        for name, state in (extras | states).items():
            click.echo(f"  {name:<12} {state}")
        for problem in problems:
            click.echo(f"Problem: {problem}", err=True)
    if problems:
        sys.exit(1)


def missing_by_extra(requirements: list[str]) -> dict[str, list[str]]:
    """The distributions that are not installed, for each extra. requirements: as the metadata of stal states them."""
    found: dict[str, list[str]] = defaultdict(list)
    for requirement in requirements:
        match = _REQUIREMENT.match(requirement)
        if match is None or match[3] in _NOT_RUN:
            continue
        missing = found[match[3]]
        if match[1] != "stal" and not _installed(match[1]):
            missing.append(match[1])
    return dict(found)


def _installed(distribution: str) -> bool:
    """Also when another distribution provides the same module: onnxruntime-gpu for onnxruntime."""
    try:
        metadata.distribution(distribution)
    except metadata.PackageNotFoundError:
        return util.find_spec(distribution.replace("-", "_")) is not None
    return True


def find_shadows() -> list[str]:
    """Return a sentence for each package name of ours that another installed distribution provides too."""
    owners = metadata.packages_distributions()
    return [
        f"the import package '{name}' is also provided by {', '.join(others)}: uninstall it, or use a virtual "
        "environment of stal's own"
        for name in GENERIC_PACKAGES
        if (others := sorted(set(owners.get(name, ())) - {"stal"}))
    ]
