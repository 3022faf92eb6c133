"""The annotation formats: one file each, one line each in this table."""

from stal_data.errors import InputError, did_you_mean
from stal_data.formats.ava import AVA
from stal_data.formats.chaotic_world import CHAOTIC_WORLD
from stal_data.formats.fields import BadFieldError, Row
from stal_data.formats.registry import AnnotationFormat
from stal_data.plugins import allowed_plugin

FORMATS: dict[str, AnnotationFormat] = {item.name: item for item in (CHAOTIC_WORLD, AVA)}
"""By the `format` of a dataset.yaml. Plugins are beside it, in the entry-point group `stal.formats`."""


def format_of(name: str) -> AnnotationFormat:
    """Return a format from the table, or from a plugin that is allowed."""
    found = FORMATS.get(name) or allowed_plugin("stal.formats", name)
    if not isinstance(found, AnnotationFormat):
        raise InputError(f"There is no annotation format '{name}'. {did_you_mean(name, FORMATS)}")
    return found


__all__ = ["FORMATS", "AnnotationFormat", "BadFieldError", "Row", "format_of"]
