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


def _help_texts(command: click.Command, context: click.Context) -> Iterator[str]:
    yield command.help or ""
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from _help_texts(child, click.Context(child, info_name=name, parent=context))


_CALL = re.compile(r"stal-cli [^`\n]*")
_OTHER_MACHINE = re.compile(r"--(?:detector|recognizer)[ =](?!127\.0\.0\.1|localhost|HOST|\.\.\.|\$|\"\$)\S*\w:\d+")


def _refused_calls(text: str) -> list[str]:
    """Calls that go to another machine, which takes --tls-ca or --insecure."""
    calls = _CALL.findall(re.sub(r"\\\n\s*", " ", text))
    return [call for call in calls if _OTHER_MACHINE.search(call) and not re.search("--tls-ca|--insecure", call)]


def test_calls_to_other_machines_say_how_they_are_secured() -> None:
    texts = [page.read_text() for page in PAGES] + list(_help_texts(root, click.Context(root)))
    assert any(_OTHER_MACHINE.search(text) for text in texts)
    assert [call for text in texts for call in _refused_calls(text)] == []
    assert _refused_calls("run `stal-cli status --detector gpu1:50051` there")


def test_the_check_sees_a_wrong_option() -> None:
    (line,) = _commands("```\nstal-cli detect data --no-such-option 3\n```")
    assert _unknown_options(line)


def test_nothing_tells_to_install_by_name_from_an_index() -> None:
    """The project is on no package index; what is called so there may be anybody's."""
    folders = ("cache", "cli", "deploy", "detector_svc", "docs", "recognizer_svc", "stal", "stal_data", "stal_eval")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.*") if path.suffix != ".pyc"]
    by_name = re.compile(rb"stal\[[a-z]|pip install ['\"]?stal\b")
    assert [path for path in files if by_name.search(path.read_bytes())] == []
