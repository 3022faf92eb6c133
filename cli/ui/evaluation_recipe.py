"""`--recipe` of `predict` and `eval`: one YAML file holds the options of both, and what is typed wins."""

from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import click

from stal_data.errors import InputError, NotFoundError, did_you_mean, shown
from stal_data.yaml_text import load_yaml, read_yaml

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
SECTIONS = ("predict", "eval")


def recipe_option(section: str) -> Callable[[Decorated], Decorated]:
    """Add `--recipe`, which takes the defaults of the command's other options from this section."""

    def apply(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is None:
            return
        # Options by the name that a user types.
        known = {
            name.removeprefix("--"): str(param.name)
            for param in ctx.command.params
            for name in param.opts
            if name.startswith("--")
        }
        found = load_evaluation(value)[section]
        for key in found:
            if key not in known or key == "recipe":
                raise InputError(f"{value}: '{section}' has no option {shown(key)}. {did_you_mean(key, known)}")
        ctx.default_map = {**(ctx.default_map or {}), **{known[key]: item for key, item in found.items()}}

    return click.option(
        "--recipe",
        metavar="RECIPE",
        is_eager=True,
        expose_value=False,
        callback=apply,
        help=f"Evaluation recipe with defaults for these options: a YAML file, or {', '.join(shipped())}.",
    )


def shipped() -> tuple[str, ...]:
    """Names of the evaluation recipes that come with the package."""
    folder = files("recipes").joinpath("evaluation")
    return tuple(sorted(item.name.removesuffix(".yaml") for item in folder.iterdir() if item.name.endswith(".yaml")))


def load_evaluation(source: str) -> dict[str, Mapping[str, Any]]:
    """Return the options of each section; an absent one is empty. source: a file, or a shipped name."""
    path, name = Path(source), source.removesuffix(".yaml")
    if path.is_file():
        values = read_yaml(path)
    elif name in shipped():
        text = files("recipes").joinpath("evaluation", f"{name}.yaml").read_text(encoding="utf-8")
        values = load_yaml(text, source)
    else:
        raise NotFoundError(
            f"No evaluation recipe '{source}': neither a file nor a shipped one. {did_you_mean(name, shipped())}"
        )
    if not isinstance(values, dict):
        raise InputError(f"{source} must be a mapping with the keys name, {', '.join(SECTIONS)}.")
    for key in values:
        if key not in ("name", *SECTIONS):
            raise InputError(f"{source}: unknown key {shown(key)}. {did_you_mean(str(key), ('name', *SECTIONS))}")
    sections = {section: values.get(section) or {} for section in SECTIONS}
    for section, options in sections.items():
        if not isinstance(options, dict):
            raise InputError(f"{source}: '{section}' is {shown(options)}, but must hold options by name.")
    return sections
