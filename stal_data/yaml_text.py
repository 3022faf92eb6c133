"""YAML from anybody: plain data in time and memory that grow with the text, and errors that fit in a line.

Aliases are refused, since a few of them stand for more than fits into any memory; tags too.
"""

from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError

from stal_data.errors import InputError
from stal_data.user_files import read_text_bounded

MAX_BYTES = 8 << 20  # 8 MiB: a dataset.yaml over 100,000 video files
MAX_DEPTH = 20
_LONGEST_NUMBER = 100  # characters: many digits take long to read, and longer to print
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_KEYS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")
_LONGEST_REASON = 300


class _Loader(yaml.SafeLoader):
    """Refuses, while it reads, what would grow or could not be a setting."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _refusal("aliases such as *name are not accepted, write the value out", event)
        if isinstance(event, yaml.NodeEvent) and getattr(event, "tag", None) is not None:
            raise _refusal("tags such as !!name are not accepted, put text in quotes", event)
        if self._depth == MAX_DEPTH:
            raise _refusal(f"more than {MAX_DEPTH} levels are not accepted", event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, yaml.ScalarNode) and node.tag in _NUMBERS and len(node.value) > _LONGEST_NUMBER:
            raise _refusal(f"numbers of more than {_LONGEST_NUMBER} characters are not accepted", node)
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
        return node


def load_yaml(text: str, where: str) -> Any:
    """Return what a text says; InputError that begins with `where` when it is not YAML or too much of it."""
    if len(text) > MAX_BYTES:
        raise InputError(f"{where} has {len(text)} characters, but may have {MAX_BYTES} at most.")
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError) as error:  # the latter for 2001-99-99
        raise InputError(f"{where} is not YAML: {_reason(error)}.") from None


def read_yaml(path: Path) -> Any:
    """`load_yaml` of a file; FileNotFoundError when there is none."""
    return load_yaml(read_text_bounded(path, MAX_BYTES), str(path))


def _check_keys(node: yaml.MappingNode) -> None:
    """Keys are text: numbers can be chosen such that a dict of them takes quadratic time."""
    seen: set[str] = set()
    for key, _ in node.value:
        if key.tag not in _KEYS:
            raise _refusal("a key must be text, put it in quotes", key)
        if key.value in seen:
            raise _refusal(f"the key '{key.value[:100]}' is there twice", key)
        seen.add(key.value)


def _refusal(problem: str, at: yaml.Event | yaml.Node) -> ComposerError:
    return ComposerError(None, None, problem, at.start_mark)


def _reason(error: Exception) -> str:
    reason = str(error)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        said = ", ".join(part for part in (error.context, error.problem) if part)
        reason = f"{said} (line {error.problem_mark.line + 1})"
    reason = " ".join(reason.split())
    return reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]} ..."
