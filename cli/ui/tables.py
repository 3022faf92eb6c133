"""Tables on standard output."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH = 400


def add_row(table: Table, *cells: str) -> None:
    """Add cells as they are: what looks like rich's markup, such as [/path], is text."""
    table.add_row(*map(Text, cells))


def print_table(table: Table) -> None:
    """Print; a pipe gets whole lines instead of a terminal's width."""
    console = Console()
    (console if console.is_terminal else Console(width=_PIPE_WIDTH)).print(table)
