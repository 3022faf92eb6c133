"""`train` and `sweep` name the way to what an option that they lack means."""

import click
import pytest
from click.testing import CliRunner

from cli.commands.sweep import sweep
from cli.commands.train import train


@pytest.mark.parametrize("command", [train, sweep])
@pytest.mark.parametrize(
    ("words", "texts"),
    [
        (
            ["--checkpoint", "best"],
            [
                "'predict' and 'models pack' take one",
                "--resume",
                "training.init_head=FILE",
                "validation.keep_best=true",
            ],
        ),
        (["--epochs", "3"], ["'--epochs': it is a setting of the recipe, so write --set training.epochs=VALUE.\n"]),
        (["--learning-rate=3"], ["--set optimizer.learning_rate=VALUE."]),
        (["--training.seed=1"], ["--set training.seed=VALUE."]),
        (["--stor", "a"], ["'--store'"]),
        (["--nothing-alike"], ["No such option '--nothing-alike'"]),
    ],
)
def test_an_unknown_option_names_the_way_out(command: click.Command, words: list[str], texts: list[str]) -> None:
    result = CliRunner().invoke(command, ["acar", "--store", "store", *words])
    assert result.exit_code == 2
    for text in texts:
        assert text in result.stderr
