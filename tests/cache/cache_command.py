"""The command `stal-cli cache`, for the tests of what it does."""

from click.testing import CliRunner, Result

from cli.commands.cache import cache


def run(*arguments: object, answer: str | None = None) -> Result:
    return CliRunner().invoke(cache, list(map(str, arguments)), input=answer, catch_exceptions=False)
