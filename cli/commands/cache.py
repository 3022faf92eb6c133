"""`stal-cli cache`: look after what a store holds."""

import click

from cli.lazy import LazyGroup

COMMANDS = {
    "ls": ("cli.commands.cache_commands.listing:list_sets", "List feature sets and proposals."),
    "info": ("cli.commands.cache_commands.listing:info", "Describe one feature set: spec, coverage, size."),
    "verify": ("cli.commands.cache_commands.verify:verify", "Check everything against checksums and digests."),
    "prune": ("cli.commands.cache_commands.prune:prune", "Delete incomplete, old or named feature sets."),
    "diff": ("cli.commands.cache_commands.diff:diff", "Compare two feature sets."),
    "copy": ("cli.commands.cache_commands.transfer:copy", "Copy feature sets to another store."),
    "export": ("cli.commands.cache_commands.transfer:export", "Write a feature set to one file."),
    "import": ("cli.commands.cache_commands.transfer:import_", "Read a feature set from such a file."),
}


@click.command(cls=LazyGroup, lazy=COMMANDS)
def cache() -> None:
    """List, check, compare, move and delete what is in the cache.

    \b
    Example:
      stal-cli cache ls store
      stal-cli cache verify store --repair
      stal-cli cache prune store --incomplete
    """
