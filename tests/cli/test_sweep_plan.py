"""What a sweep would train, and what it refuses before anything starts."""

from pathlib import Path

import pytest

from cli.workflow.sweep.plan import MAX_RUNS, Plan, make_plan, parse_grid
from cli.workflow.sweep.results import RunResult
from recognizer_svc.training.recipe import parse_recipe
from stal_data.errors import InputError
from tests.recognizer.toy_store import ACAR

OWN = ACAR.replace("{split: test}", "{held_out: 0.4}")


def plan(
    *grid: str, sets: tuple[str, ...] = (), recipes: tuple[str, ...] = (ACAR,), seeds: int = 1, test: str | None = None
) -> Plan:
    return make_plan(recipes, grid, sets, name="s", seeds=seeds, test=test)


def test_every_combination_with_every_seed_is_a_run() -> None:
    found = plan("head.depth=0,1", "optimizer.learning_rate=1e-3,0.02", seeds=2)
    assert [run.run_id for run in found.runs][:3] == [
        "s-toy-acar-depth-0-learning_rate-0.001-seed0",
        "s-toy-acar-depth-0-learning_rate-0.001-seed1",
        "s-toy-acar-depth-0-learning_rate-0.02-seed0",
    ]
    made = {(run.recipe.head.depth, run.recipe.optimizer.learning_rate, run.recipe.training.seed) for run in found.runs}
    assert made == {(depth, rate, seed) for depth in (0, 1) for rate in (0.001, 0.02) for seed in (0, 1)}
    assert found.cells[0].title == "toy-acar head.depth=0 optimizer.learning_rate=0.001"
    assert len(plan(seeds=3).runs) == 3


def test_a_cell_keeps_its_run_ids_when_the_grid_grows_or_is_written_in_another_order() -> None:
    few = plan("head.depth=0", "head.dropout=0,0.1")
    more = plan("head.dropout=0.1,0.3,0", "head.depth=1,0", seeds=2)
    assert {run.run_id for run in few.runs} < {run.run_id for run in more.runs}


def test_values_that_cannot_be_in_a_name_give_run_ids_of_their_own() -> None:
    found = plan(
        "data.streams=[slowfast],[slowfast, vit],null", "loss={kind: sigmoid},{kind: pose_softmax, num_poses: 2}"
    )
    assert len({run.run_id for run in found.runs}) == 6
    assert [run.recipe.data.streams for run in found.runs][::2] == [("slowfast",), ("slowfast", "vit"), None]


@pytest.mark.parametrize(
    ("recipe", "sets", "split", "held_out"),
    [
        (ACAR, (), None, 0.2),
        (ACAR, ("validation.keep_best=false",), None, 0.2),
        (ACAR, ("validation.split=null",), None, 0.2),
        (ACAR, ("validation.held_out=0.5",), None, 0.5),
        (ACAR, ("validation.split=val",), "val", None),
        (ACAR, ("validation={split: val}",), "val", None),
        (ACAR, ("validation.split=null", "validation.held_out=0.5"), None, 0.5),
        (OWN, (), None, 0.4),
        (OWN, ("validation.held_out=0.5",), None, 0.5),
        (OWN, ("validation.split=val",), "val", None),
    ],
)
def test_the_choice_is_made_on_what_the_user_says_else_on_held_out_videos(
    recipe: str, sets: tuple[str, ...], split: str | None, held_out: float | None
) -> None:
    found = plan("head.depth=0", sets=sets, recipes=(recipe,), test="test").runs[0].recipe.validation
    assert (found.split, found.held_out) == (split, held_out)


def test_what_is_set_unasked_is_told() -> None:
    assert plan().notes == ("recipe is trained with validation.split=null validation.held_out=0.2, as --help says.",)
    assert plan().chosen_on == "20 % of the videos of toy/train, held out"
    assert plan(sets=("validation.split=val",)).notes == ()


@pytest.mark.parametrize(
    ("grid", "changes", "message"),
    [
        (["head.depth"], {}, "--grid 'head.depth' must have the form section.key=value,value"),
        (["head.depth="], {}, "must have the form"),
        (["=1"], {}, "must have the form"),
        (["head.depth=[1"], {}, "must have the form"),
        (["head.depth=1", "head.depth=2"], {}, "--grid names head.depth twice"),
        (["head.depth=1,one"], {}, "head.depth=.one.*: head.depth is 'one': .*integer"),
        (["head.dept=1"], {}, r"unknown key 'dept'. Did you mean 'depth'\?"),
        (["optimizer.learning_rate=1e-3,0.001"], {}, "are one cell"),
        ([], {"recipes": (ACAR, ACAR)}, "are one cell"),
        (["training.seed=1,2"], {}, "training.seed is chosen by --seeds"),
        ([], {"sets": ("training.seed=1",)}, "training.seed is chosen by --seeds"),
        (["validation.held_out=0.1,0.2"], {}, "--grid names validation.held_out, but all cells must be compared"),
        (["name=a,b"], {}, "--grid names name"),
        (["head.depth=" + ",".join(map(str, range(MAX_RUNS)))], {"seeds": 2}, "has 2000 runs .* may have 1000 at most"),
        (
            [],
            {"sets": ("validation.split=test",), "test": "test"},
            "validation.split test and --test test: no split may",
        ),
        ([], {"sets": ("validation.split=train",)}, "validation.split train and --test None: no split may"),
        ([], {"test": "train"}, "data.train_split is train, .* --test train"),
        ([], {"sets": ("validation={}",)}, "has no validation, and the choice is made on it"),
        ([], {"recipes": (ACAR, OWN.replace("toy-acar", "own"))}, "validation.held_out is 0.4 for own and 0.2 for toy"),
        (["data.dataset=a,b"], {}, "data.dataset is b for"),
    ],
)
def test_what_makes_no_sense_is_refused(grid: list[str], changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(*grid, **changes)


def test_a_name_leads_to_run_ids() -> None:
    with pytest.raises(InputError, match=r"--name is '\.\./x'"):
        make_plan([ACAR], [], [], name="../x", seeds=1, test=None)


def test_a_setting_and_a_figure_have_columns_of_their_own() -> None:
    run = plan("loss={kind: sigmoid}", "head.depth=1").runs[0]
    columns = RunResult(run=run, curve={}, loss=0.5).plain()
    loss = '{"kind": "sigmoid", "label_smoothing": 0.0}'
    assert (columns["loss"], columns["head.depth"], columns["training_loss"]) == (loss, "1", 0.5)


def test_a_grid_of_yaml() -> None:
    assert parse_grid(["a.b=1,[2, 3],{c: d},null,x y"]) == {"a.b": ("1", "[2, 3]", '{"c": "d"}', "null", '"x y"')}


def test_recipes_come_from_files_and_names(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(ACAR.replace("toy-acar", "mine"))
    found = plan(recipes=(str(tmp_path / "mine.yaml"), "linear"), sets=("data.dataset=toy",))
    assert [cell.recipe for cell in found.cells] == ["mine", "linear"]
    assert found.runs[1].recipe.to_yaml() != parse_recipe(ACAR).to_yaml()
