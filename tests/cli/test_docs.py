"""Every `stal-cli` line in README, docs and --help examples names commands and options that exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cli.main import root

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "scripts" / "real_input.sh"]


def _commands(text: str) -> Iterator[str]:
    joined = re.sub(r"\\\n\s*", " ", text)
    for line in re.findall(r"^\s*(?:\$ )?(stal-cli .*?)(?:\s+#.*)?$", joined, re.MULTILINE):
        if "..." not in line:
            yield line.split(" && ")[0].split(" | ")[0].rstrip("&").strip()


def _unknown_options(line: str) -> list[str]:
    """Walk the words down to the command and return what its parser does not know."""
    words = shlex.split(line)[1:]
    command: click.Command = root
    context = click.Context(root)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        if found is None:
            return [words[0]]
        command, context, words = found, click.Context(found, info_name=words[0], parent=context), words[1:]
    try:
        command.make_parser(context).parse_args(list(words))
    except click.UsageError as error:
        return [error.format_message()]
    return []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_on_the_page_parse(page: Path) -> None:
    wrong = {line: unknown for line in _commands(page.read_text()) if (unknown := _unknown_options(line))}
    assert wrong == {}


def test_the_check_sees_a_wrong_option() -> None:
    (line,) = _commands("```\nstal-cli detect data --no-such-option 3\n```")
    assert _unknown_options(line)
