"""The container files call commands and options that exist; Docker itself is not needed to know that."""

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from cli.main import root

DEPLOY = Path(__file__).parents[2] / "deploy"


def _instruction(dockerfile: str, name: str) -> list[str]:
    joined = re.sub(r"\\\n\s*", " ", (DEPLOY / dockerfile).read_text())
    (value,) = re.findall(rf"^{name} (\[.*\])$", joined, re.MULTILINE)
    words: list[str] = json.loads(value)
    return words


def compose(name: str) -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text())["services"]
    return services


def known_to(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the words call, and what is left of them."""
    command, rest = root, list(words)
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(root), rest.pop(0))
        assert found is not None
        command = found
    return command, rest


@pytest.mark.parametrize("dockerfile", ["detector.Dockerfile", "recognizer.Dockerfile", "precompute.Dockerfile"])
def test_the_image_starts_a_command_with_known_options(dockerfile: str) -> None:
    program, *words = _instruction(dockerfile, "ENTRYPOINT")
    assert program == "stal-cli"
    command, _ = known_to(words)
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    given = {word for word in _instruction(dockerfile, "CMD") if word.startswith("--")}
    assert given <= known


def test_compose_builds_both_images_and_publishes_on_loopback_only() -> None:
    services = compose("compose.yaml")
    assert set(services) == {"detector", "recognizer"}
    for service in services.values():
        assert (DEPLOY.parent / service["build"]["dockerfile"]).is_file()
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_compose_asks_for_gpus_only_with_the_second_file() -> None:
    assert "nvidia" not in json.dumps(compose("compose.yaml"))
    overlay = compose("compose.gpu.yaml")
    assert set(overlay) == set(compose("compose.yaml"))
    for service in overlay.values():
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])


@pytest.mark.parametrize("name", ["detector", "recognizer"])
def test_compose_asks_each_service_how_it_is_where_it_listens(name: str) -> None:
    kind, program, *words = compose("compose.yaml")[name]["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "stal-cli")
    command, rest = known_to(words)
    assert command.name == "health"
    given = _instruction(f"{name}.Dockerfile", "CMD")
    assert rest == [f"127.0.0.1:{given[given.index('--port') + 1]}"]


@pytest.mark.parametrize(
    ("dockerfile", "extras"),
    [
        ("detector.Dockerfile", {"detector", "onnx"}),
        ("recognizer.Dockerfile", {"recognizer", "evaluation", "s3"}),
        ("precompute.Dockerfile", {"precompute", "s3"}),
    ],
)
def test_images_hold_what_their_command_may_need(dockerfile: str, extras: set[str]) -> None:
    (found,) = re.findall(r"'\.\[(.*)\]'", (DEPLOY / dockerfile).read_text())
    assert set(found.split(",")) == extras


@pytest.mark.parametrize("name", ["detector", "recognizer"])
def test_published_ports_are_the_ones_the_image_exposes(name: str) -> None:
    services = compose("compose.yaml")
    exposed = re.findall(r"^EXPOSE (.*)$", (DEPLOY / f"{name}.Dockerfile").read_text(), re.MULTILINE)[0].split()
    assert [port.rsplit(":", 1)[-1] for port in services[name]["ports"]] == exposed
