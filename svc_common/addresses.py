"""Where the replicas of a service are: lists of addresses, and DNS names. No grpc here, as in `config`."""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Sequence

from stal_data.errors import InputError, NotFoundError, StalError
from svc_common.config import ClientConfig, join_address

Resolver = Callable[[str, int], Awaitable[tuple[str, ...]]]
"""From a name and a port to addresses HOST:PORT; NotFoundError when the name has none."""


def split_list(text: str) -> tuple[str, ...]:
    """Addresses with commas or spaces between; an empty list and repeats are refused."""
    addresses = tuple(re.findall(r"[^,\s]+", text))
    if not addresses:
        raise InputError(
            f"'{text}' names no address; give HOST:PORT, several with commas between, or dns:///NAME:PORT."
        )
    repeated = next((address for address in addresses if addresses.count(address) > 1), None)
    if repeated is not None:
        raise InputError(f"Address '{repeated}' occurs twice in '{text}'; name each replica once.")
    return addresses


async def resolve_name(name: str, port: int) -> tuple[str, ...]:
    """Ask the system. IPv4 addresses where there are any, else IPv6: a replica with both is one replica."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name.strip("[]"), port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise NotFoundError(f"The name '{name}' does not resolve ({error.strerror}).") from error
    family = min((entry[0] for entry in found), key=lambda family: family is not socket.AF_INET)
    return tuple(sorted({join_address(str(entry[4][0]), port) for entry in found if entry[0] is family}))


async def resolve_all(
    services: Sequence[ClientConfig], resolve: Resolver
) -> tuple[dict[str, ClientConfig], dict[str, StalError]]:
    """The replicas behind lists and names, by address, and what is wrong with names that have none."""
    replicas: dict[str, ClientConfig] = {}
    errors: dict[str, StalError] = {}
    for service in services:
        try:
            found = await resolve(*service.endpoint) if service.is_name else ()
        except NotFoundError as error:
            errors[service.address] = error
            continue
        for replica in (service.at(address) for address in found) if service.is_name else (service,):
            replicas.setdefault(replica.address, replica)
    return replicas, errors
