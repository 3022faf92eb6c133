"""The project's error base classes. A message names the field, the value, the rule and the way out."""

import reprlib
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")
_LONGEST_NAME = 200
_MOST_NAMES = 200
_MOST_PROBLEMS = 20
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 200
_SHORT.maxlevel = 2


class StalError(Exception):
    """Base of every error that a user can cause; the CLI prints its text and exits with 1."""


class InputError(StalError, ValueError):
    """A value, a file or a combination of options that breaks a rule."""


class NotFoundError(StalError, LookupError):
    """Something named by the user does not exist: a file, a split, a feature set, a run."""


class ConflictError(StalError):
    """What is on disk was made by another spec, is in use, or is held by another process."""


def did_you_mean(value: str, known: Iterable[str]) -> str:
    """Return a sentence that offers the closest of `known`, or lists them all when none is close."""
    names = sorted(known)
    # Of long names or of many the closest would take quadratic time.
    close = get_close_matches(value, names[:1000], n=1) if len(value) <= _LONGEST_NAME else []
    if close:
        return f"Did you mean '{close[0]}'?"
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"Known: {', '.join(names[:_MOST_NAMES])}{more}." if names else "None is known."


def shown(value: object) -> str:
    """Return a value as Python writes it, with the middle left out where it is long."""
    return _SHORT.repr(value)


def shown_problems(problems: Sequence[T], describe: Callable[[T], str], *, separator: str = "; ") -> str:
    """Join the descriptions of what is wrong with a file, and count what would fill pages."""
    texts = [describe(problem) for problem in problems[:_MOST_PROBLEMS]]
    if len(problems) > _MOST_PROBLEMS:
        texts.append(f"and {len(problems) - _MOST_PROBLEMS} more")
    return separator.join(texts)


def how_to_install(extra: str) -> str:
    """Return the words that say how to install an extra: from the checkout, as no package index has this project."""
    return f"in the checkout: pip install -c constraints.txt '.[{extra}]'"
