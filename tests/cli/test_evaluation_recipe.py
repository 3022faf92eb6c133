"""Evaluation recipes: the shipped ones fit their commands, what is typed wins, mistakes are named."""

import gzip
import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cli.commands.evaluate import evaluate
from cli.commands.predict import predict
from cli.ui.evaluation_recipe import shipped
from stal_data.errors import InputError, NotFoundError

FIXTURES = Path(__file__).parents[1] / "eval" / "fixtures"
PREDICT = ["--run", "published", "--store", "store", "--output", "p.csv"]
EVAL = ["--predictions", "p.csv", "--ground-truth", "g.csv", "--label-map", "l.pbtxt", "--output", "out"]


def parsed(command: click.Command, arguments: list[str]) -> dict[str, object]:
    return command.make_context("test", arguments).params


def test_the_shipped_recipes_say_how_the_published_figures_come_about():
    assert shipped() == ("published-detected", "published-ground-truth")
    detected = parsed(predict, ["--recipe", "published-detected", *PREDICT])
    assert (detected["dataset"], detected["split"]) == ("chaotic-world", "test")
    assert detected["boxes"] == ("proposals", "published")
    truth = parsed(predict, ["--recipe", "published-ground-truth", *PREDICT])
    assert (truth["boxes"], truth["layout"]) == (("ground-truth", ""), "key_frames")
    for name, capacities in (("published-detected", "50:2500"), ("published-ground-truth", "50:2000")):
        options = parsed(evaluate, ["--recipe", name, *EVAL])
        assert (options["protocol"], options["capacities"]) == ("published", capacities)


def test_what_is_typed_wins_wherever_it_stands():
    for arguments in (
        ["--layout", "rows", "--recipe", "published-ground-truth", *PREDICT],
        ["--recipe", "published-ground-truth", *PREDICT, "--layout", "rows"],
    ):
        assert parsed(predict, arguments)["layout"] == "rows"


def test_a_recipe_is_evaluated_by_its_protocol(tmp_path):
    predictions = tmp_path / "predictions.csv"
    predictions.write_bytes(gzip.decompress((FIXTURES / "small_untied_pred.csv.gz").read_bytes()))
    arguments = ["--predictions", str(predictions), "--ground-truth", str(FIXTURES / "small_untied_gt.csv")]
    arguments += ["--label-map", str(FIXTURES / "list_action.pbtxt"), "--output", str(tmp_path / "out")]
    result = CliRunner().invoke(evaluate, ["--recipe", "published-ground-truth", *arguments])
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["capacities"][0] == 50
    assert metrics["capacities"][-1] == 1999
    assert metrics["protocol"]["name"] == "published"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("predict: {boxs: ground-truth}\n", "'predict' has no option 'boxs'. Did you mean 'boxes'"),
        ("predict: {recipe: other}\n", "has no option 'recipe'"),
        ("predicted: {}\n", "unknown key 'predicted'. Did you mean 'predict'"),
        ("predict: [boxes]\n", "'predict' is .*must hold options by name"),
        ("- boxes\n", "must be a mapping"),
        ("predict: {\n", "is not YAML"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        parsed(predict, ["--recipe", str(path), *PREDICT])


def test_a_wrong_value_names_its_option(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("predict: {dataset: d, split: s, boxes: everybody}\n")
    with pytest.raises(click.BadParameter, match="'everybody' must be ground-truth"):
        parsed(predict, ["--recipe", str(path), *PREDICT])


def test_an_unknown_recipe_offers_the_shipped_ones():
    with pytest.raises(NotFoundError, match="Did you mean 'published-detected'"):
        parsed(evaluate, ["--recipe", "published-detectd", *EVAL])
