"""Names and addresses of machines. No network here: nothing is looked up."""

import re
from ipaddress import ip_address

# A last label that is a number makes it an address in one of inet_aton's spellings: 127.1, 0x7f000001.
_LABEL = r"[A-Za-z0-9_][A-Za-z0-9_-]*"
_NAME = re.compile(rf"(?=.{{1,253}}$)(?:{_LABEL}\.)*(?!\d+\.?$|0[xX][0-9A-Fa-f]*\.?$){_LABEL}\.?")


def is_loopback(host: str) -> bool:
    """True when only this machine reaches the host: `localhost`, 127.0.0.0/8 or ::1."""
    if host.lower().removesuffix(".") == "localhost":
        return True
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)  # ::ffff:127.0.0.1
    return (mapped or address).is_loopback


def is_host(text: str) -> bool:
    """True for a name, an IPv4 address, or an IPv6 address in brackets."""
    bracketed = text.startswith("[") and text.endswith("]")
    try:
        return ip_address(text[1:-1] if bracketed else text).version == (6 if bracketed else 4)
    except ValueError:
        return not bracketed and _NAME.fullmatch(text) is not None
