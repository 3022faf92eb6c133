"""The version of the interface, which clients and services tell each other with each call."""

import re

from stal_data.errors import ConflictError

API_VERSION = "2.0"
"""MAJOR.MINOR of protos/*.proto. A change that old clients do not notice (a new field, a new call) raises MINOR, any
other MAJOR, with new .proto packages."""
VERSION_HEADER = "stal-api-version"
_FORM = re.compile(r"(\d{1,4})\.(\d{1,4})")


def check_client(stated: str | None, *, service: str = API_VERSION) -> None:
    """Refuse a client whose calls this service would misunderstand; one that states no version is taken as it is.

    A service understands clients of the same MAJOR and of no higher MINOR: it would drop the fields it does not know,
    and the client would not learn of it. So services are upgraded before their clients.
    """
    if stated is None:
        return  # grpcurl and clients of other makes; the package name says MAJOR
    form = _FORM.fullmatch(stated)
    if form is None:
        raise ConflictError(
            f"The client states API version {stated[:40]!r}, but it must be MAJOR.MINOR, e.g. {service}."
        )
    ours, theirs = tuple(map(int, service.split("."))), tuple(map(int, form.groups()))
    if theirs[0] == ours[0] and theirs[1] <= ours[1]:
        return
    upgrade = "the service (services go first)" if theirs > ours else "the client"
    raise ConflictError(
        f"The client speaks API version {stated}, the service {service}, and they do not fit each other. "
        f"Upgrade {upgrade}."
    )
