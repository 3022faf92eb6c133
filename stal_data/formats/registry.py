"""What an annotation format declares."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from stal_data.formats.fields import Row


@dataclass(frozen=True, kw_only=True)
class AnnotationFormat:
    """A CSV format of annotations, one person with one action a line.

    name: the `format` of a dataset.yaml, and in messages. parse: from the fields of a line and its number to a row; it
        raises BadFieldError. first_label: what files count labels from; ids of the label map begin at 1.
    within_seconds: whether key frames may be within a second; else their times are whole seconds.
    published_loses_first_row: whether the published code takes the first line of a file for a header.
    """

    name: str
    parse: Callable[[Sequence[str], int], Row]
    first_label: int
    within_seconds: bool = False
    published_loses_first_row: bool = False
