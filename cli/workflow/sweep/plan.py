"""What a sweep trains: recipes x cells of the grid x seeds, each checked before the first run starts."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from recognizer_svc.training.recipe import Recipe, parse_recipe, read_recipe
from stal_data.amounts import amount
from stal_data.errors import InputError
from stal_data.names import check_name, is_name
from stal_data.yaml_text import load_yaml

MAX_RUNS = 1000
HELD_OUT = 0.2
"""Fraction of the training videos that the choice is made on, where nobody says otherwise."""
_LONGEST_SLUG = 80
_MAX_NODES = 10_000  # of a grid's values


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A recipe with one value of each key of the grid. settings: the values as JSON text, by dotted name."""

    recipe: str
    settings: Mapping[str, str]

    @property
    def title(self) -> str:
        return " ".join([self.recipe, *(f"{key}={value}" for key, value in self.settings.items())])

    @property
    def slug(self) -> str:
        """What the run ids say of it; it depends on this cell alone, so a grid may grow."""
        settings = sorted(self.settings.items())
        text = "-".join([self.recipe, *(f"{key.rpartition('.')[2]}-{value.strip(chr(34))}" for key, value in settings)])
        if is_name(text) and len(text) <= _LONGEST_SLUG:
            return text
        return f"{self.recipe[:_LONGEST_SLUG]}-{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]}"


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    run_id: str
    cell: Cell
    seed: int
    recipe: Recipe


@dataclass(frozen=True, kw_only=True)
class Plan:
    """cells: in the order of the words, recipe by recipe. notes: what was set unasked."""

    name: str
    cells: tuple[Cell, ...]
    runs: tuple[PlannedRun, ...]
    notes: tuple[str, ...]

    @property
    def recipe(self) -> Recipe:
        """One of the runs; in their data set, training split and validation all are alike."""
        return self.runs[0].recipe

    @property
    def chosen_on(self) -> str:
        """What validation is, in words."""
        return self.recipe.validated_on or ""


def make_plan(
    sources: Sequence[str], grid: Sequence[str], overrides: Sequence[str], *, name: str, seeds: int, test: str | None
) -> Plan:
    """Check the words of a sweep.

    sources: recipes, as `load_recipe` takes them. grid: `section.key=value,value` each. overrides: for all recipes.
    seeds: training.seed is 0 to seeds - 1. test: the split that the choice must not be made on.
    """
    check_name("--name", name)
    values = parse_grid(grid)
    _refuse_own_keys([*values, *map(_key, overrides)], values)
    count = len(sources) * prod(map(len, values.values())) * seeds
    if count > MAX_RUNS:
        raise InputError(
            f"The sweep has {count} runs ({amount(len(sources), 'recipe')} x "
            f"{' x '.join(str(len(texts)) for texts in values.values()) or 1} cells x {amount(seeds, 'seed')}), but "
            f"may have {MAX_RUNS} at most: shorten --grid or --seeds, or split it."
        )
    runs: list[PlannedRun] = []
    notes: list[str] = []
    for source in sources:
        text, where = read_recipe(source)
        set_unasked = _validation(load_yaml(text, where, max_nodes=_MAX_NODES), overrides)
        if set_unasked:
            notes.append(f"{where} is trained with {' '.join(set_unasked)}, as --help says.")
        for texts in product(*values.values()):
            words = [f"{key}={value}" for key, value in zip(values, texts, strict=True)]
            recipe = parse_recipe(text, [*set_unasked, *overrides, *words], source=" ".join([where, *words]))
            settings = {key: json.dumps(_value(recipe, key)) for key in values}
            runs += _seeded(name, Cell(recipe=recipe.name, settings=settings), recipe, seeds)
    _check(runs, test)
    cells = tuple(run.cell for run in runs if run.seed == 0)
    return Plan(name=name, cells=cells, runs=tuple(runs), notes=tuple(notes))


def parse_grid(words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the values of each key as JSON text. Each word is `section.key=value,value`; a value is YAML."""
    grid: dict[str, tuple[str, ...]] = {}
    for word in words:
        key, sign, text = word.partition("=")
        try:
            values = load_yaml(f"[{text}]", "the values", max_nodes=_MAX_NODES) if sign else None
        except InputError:
            values = None
        if not key.strip() or not isinstance(values, list) or not values:
            raise InputError(
                f"--grid '{word[:200]}' must have the form section.key=value,value, for example head.depth=0,1,2."
            )
        if key.strip() in grid:
            raise InputError(f"--grid names {key.strip()} twice; give all its values in one.")
        grid[key.strip()] = tuple(json.dumps(value, default=str) for value in values)
    return grid


def _key(override: str) -> str:
    return override.partition("=")[0].strip()


def _refuse_own_keys(keys: Sequence[str], grid: Mapping[str, object]) -> None:
    if any(key in ("training.seed", "training") for key in keys):
        raise InputError("training.seed is chosen by --seeds: a sweep with --seeds 3 trains each cell with 0, 1 and 2.")
    if wrong := [key for key in grid if key == "name" or key.partition(".")[0] == "validation"]:
        raise InputError(
            f"--grid names {wrong[0]}, but all cells must be compared on the same validation, under their recipe's "
            "name; use --set."
        )


def _validation(values: Any, overrides: Sequence[str]) -> list[str]:
    """What goes before the user's words, so that no test split, which shipped recipes name, is chosen on."""
    said = {_key(word): load_yaml(word.partition("=")[2], word, max_nodes=_MAX_NODES) for word in overrides}
    section = values.get("validation") if isinstance(values, dict) else None
    own = section if isinstance(section, dict) else {}
    if "validation" in said:
        return []
    if said.get("validation.split") is not None:
        return [] if own.get("held_out") is None else ["validation.held_out=null"]
    words = [] if own.get("split") is None else ["validation.split=null"]
    if said.get("validation.held_out", own.get("held_out")) is None:
        words.append(f"validation.held_out={HELD_OUT}")
    return words


def _value(recipe: Recipe, key: str) -> object:
    """The value of a setting as the checked recipe has it, so that 1e-3 and 0.001 are one."""
    found: Any = recipe.model_dump(mode="json")
    for part in key.split("."):
        found = found[part]
    return found


def _seeded(name: str, cell: Cell, recipe: Recipe, seeds: int) -> list[PlannedRun]:
    return [
        PlannedRun(
            run_id=check_name("run id", f"{name}-{cell.slug}-seed{seed}"),
            cell=cell,
            seed=seed,
            recipe=recipe.model_copy(update={"training": recipe.training.model_copy(update={"seed": seed})}),
        )
        for seed in range(seeds)
    ]


def _check(runs: Sequence[PlannedRun], test: str | None) -> None:
    known: dict[str, Cell] = {}
    for run in runs:
        if run.run_id in known:
            raise InputError(
                f"'{run.cell.title}' and '{known[run.run_id].title}' are one cell or of one name; give each value, and "
                "each recipe of a name, once."
            )
        known[run.run_id] = run.cell
    first = runs[0].recipe
    for run in runs:
        recipe, validation = run.recipe, run.recipe.validation
        if recipe.validated_on is None:
            raise InputError(
                f"{recipe.name} has no validation, and the choice is made on it: leave out --set validation, or set "
                "validation.held_out or validation.split."
            )
        splits = [name for name in (recipe.data.train_split, validation.split, test) if name is not None]
        if len(set(splits)) < len(splits):
            raise InputError(
                f"data.train_split is {recipe.data.train_split}, validation.split {validation.split} and --test {test}"
                ": no split may serve twice. Choose on another one, or on held-out videos with --set "
                "validation.split=null."
            )
        for field, this, that in (
            ("data.dataset", recipe.data.dataset, first.data.dataset),
            ("data.train_split", recipe.data.train_split, first.data.train_split),
            ("data.additional", recipe.data.additional, first.data.additional),
            ("validation.split", validation.split, first.validation.split),
            ("validation.held_out", validation.held_out, first.validation.held_out),
            ("validation.datasets", validation.datasets, first.validation.datasets),
        ):
            if this != that:
                raise InputError(
                    f"{field} is {this} for {run.cell.title} and {that} for {runs[0].cell.title}; cells can be "
                    "compared only on the same validation. Set it for all with --set."
                )
