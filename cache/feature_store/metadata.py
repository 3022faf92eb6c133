"""The JSON files of a feature set, and the digests that tell when one was changed."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cache.feature_store.deleting import how_to_delete
from cache.feature_store.errors import DamagedError
from stal_data.errors import ConflictError, NotFoundError

FILE = "zarr.json"
GROUP = {"zarr_format": 3, "node_type": "group"}


def seal(root: Path, attributes: Mapping[str, Any], members: Sequence[str]) -> dict[str, Any]:
    """Return the attributes with `metadata`, the sha256 of each member's zarr.json, and `digest`, their own.

    members: arrays and groups below `root`, which exist.
    """
    sealed = {**attributes, "metadata": {name: _sha256((root / name / FILE).read_bytes()) for name in members}}
    return {**sealed, "digest": _digest(sealed)}


def check_attributes(root: Path, attributes: Mapping[str, Any]) -> None:
    """Refuse a set whose attributes have changed since it was made."""
    rest = {name: value for name, value in attributes.items() if name != "digest"}
    if attributes.get("digest") != _digest(rest):
        raise ConflictError(f"The attributes in '{root / FILE}' were changed: their digest differs. {_way_out(root)}")


def check_members(root: Path, attributes: Mapping[str, Any], members: Sequence[str]) -> None:
    """Refuse a set in which the zarr.json of an array or group has changed since it was made."""
    for name in members:
        path = root / name / FILE
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DamagedError(f"'{path}' does not read: {error}. {_way_out(root)}") from error
        if _sha256(content) != attributes.get("metadata", {}).get(name):
            raise ConflictError(f"'{path}' was changed: its digest differs. {_way_out(root)}")


def read_attributes(root: Path) -> dict[str, Any]:
    """Return the attributes of the set's group."""
    path = root / FILE
    group = read_json(path)
    if any(group.get(key) != value for key, value in GROUP.items()):
        raise ConflictError(f"'{path}' is not the metadata of a Zarr v3 group. {_way_out(root)}")
    attributes = group.get("attributes", {})
    if not isinstance(attributes, dict):
        raise DamagedError(f"The attributes in '{path}' are not a JSON object. {_way_out(root)}")
    return attributes


def read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except FileNotFoundError:
        raise NotFoundError(f"There is no feature set at '{path.parent}': '{path.name}' is missing.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(f"'{path}' does not read as JSON: {error}.") from error
    if not isinstance(values, dict):
        raise DamagedError(f"'{path}' does not hold a JSON object.")
    return values


def _digest(attributes: Mapping[str, Any]) -> str:
    return _sha256(json.dumps(attributes, sort_keys=True, separators=(",", ":")).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _way_out(root: Path) -> str:
    return f"Restore the file, or {how_to_delete(root)} and precompute again."
