"""The project's error base classes. A message names the field, the value, the rule and the way out."""

from collections.abc import Iterable
from difflib import get_close_matches


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
    close = get_close_matches(value, names, n=1)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"Known: {', '.join(names)}." if names else "None is known."


def how_to_install(extra: str) -> str:
    """Return the words that say how to install an extra: from the checkout, as no package index has this project."""
    return f"in the checkout: pip install -c constraints.txt '.[{extra}]'"
