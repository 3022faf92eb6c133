"""The file of `stal-cli status --services`: a list of services and how to reach them."""

from pathlib import Path
from typing import Any, cast

from cli.ui.service_status import Kind, ServiceToAsk
from stal_data.errors import InputError, NotFoundError, did_you_mean, shown
from stal_data.yaml_text import read_yaml
from svc_common.config import ClientConfig

_KINDS = ("detector", "recognizer")
_FILES = ("tls_ca", "tls_cert", "tls_key", "token_file")
_FIELDS = (*_KINDS, *_FILES, "server_name", "insecure")


def read_services(path: Path) -> list[ServiceToAsk]:
    """Paths in the file are relative to its folder."""
    if not path.is_file():
        raise NotFoundError(f"--services '{path}' is not a file.")
    content = read_yaml(path)
    if not isinstance(content, list):
        raise InputError(f"'{path}' must be a list of services, each '- detector: HOST:PORT' or '- recognizer: ...'.")
    return [_read_service(item, f"service {number} in '{path}'", path.parent) for number, item in enumerate(content, 1)]


def _read_service(item: Any, where: str, folder: Path) -> ServiceToAsk:
    if not isinstance(item, dict):
        raise InputError(f"{where} is {shown(item)}, but must be 'detector: HOST:PORT' or 'recognizer: HOST:PORT'.")
    for field in item:
        if field not in _FIELDS:
            raise InputError(f"{where} has the unknown field {shown(field)}. {did_you_mean(str(field), _FIELDS)}")
    kinds = [kind for kind in _KINDS if kind in item]
    if len(kinds) != 1:
        raise InputError(f"{where} must have one of detector and recognizer, with its HOST:PORT.")
    insecure = item.get("insecure", False)
    if not isinstance(insecure, bool):
        raise InputError(f"insecure of {where} is {shown(insecure)}, but must be true or false.")
    server_name = item.get("server_name")
    if server_name is not None and not isinstance(server_name, str):
        raise InputError(f"server_name of {where} is {shown(server_name)}, but must be a name.")
    files: dict[str, Any] = {field: folder / str(item[field]) for field in _FILES if field in item}
    client = ClientConfig(address=str(item[kinds[0]]), server_name=server_name, insecure=insecure, **files)
    return ServiceToAsk(kind=cast("Kind", kinds[0]), client=client)
