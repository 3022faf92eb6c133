"""`stal-cli demo`: every command of the workflow, in its own process, on a synthetic data set."""

from cli.demo.command import demo

__all__ = ["demo"]
