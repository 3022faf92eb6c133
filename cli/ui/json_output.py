"""`--json`: what a command shows, for programs."""

import json
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from google.protobuf.message import Message

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def print_json(value: object) -> None:
    """Print dataclasses as objects; what JSON has no word for, such as paths and key frames, as text."""
    click.echo(json.dumps(value, indent=2, allow_nan=False, default=_plain))


def print_json_line(value: object) -> None:
    """Print one of several values of a command that prints them as they come."""
    click.echo(json.dumps(value, allow_nan=False, default=_plain))


def message_fields(message: "Message") -> dict[str, Any]:
    """The fields of a protobuf message, those with their default value, too."""
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _plain(value: object) -> Any:
    if is_dataclass(value) and not isinstance(value, type) and type(value).__str__ is object.__str__:
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return str(value)
