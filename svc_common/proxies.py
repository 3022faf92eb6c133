"""Which HTTP proxy stands between a client and a service. gRPC asks the environment; never for this machine."""

import os
import re
from collections.abc import Mapping
from ipaddress import ip_address, ip_network

from stal_data.hosts import is_loopback
from svc_common.config import DNS_PREFIX

VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
"""The first that is set counts, also where it is empty. gRPC knows only these spellings."""
EXCEPTIONS = ("no_grpc_proxy", "no_proxy")


def proxy_of(host: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """`http_proxy=http://proxy:3128` of a host, without the password; None where gRPC connects without a proxy."""
    name = next((name for name in VARIABLES if name in environment), None)
    if name is None or not environment[name].startswith("http://") or is_loopback(host):
        return None
    exceptions = next((environment[name] for name in EXCEPTIONS if name in environment), "")
    if any(_excepts(entry.strip(), host.strip("[]")) for entry in exceptions.split(",")):
        return None
    return f"{name}={without_password(environment[name])}"


def through_proxy(address: str) -> str:
    """Words for the error of a call to HOST:PORT; none where there is no proxy."""
    host = address.removeprefix(DNS_PREFIX).rpartition(":")[0]
    proxy = proxy_of(host)
    return "" if proxy is None else f" through the proxy {proxy} (add {host.strip('[]')} to no_proxy to go past it)"


def without_password(url: str) -> str:
    """A proxy's URL as it may be shown."""
    return re.sub(r"//[^/]*@", "//", url)


def _excepts(entry: str, host: str) -> bool:
    """Whether an entry of no_proxy, the end of a name or a network, is about the host."""
    if entry and host.lower().endswith(entry.lower()):
        return True
    try:
        return ip_address(host) in ip_network(entry, strict=False)
    except ValueError:
        return False
