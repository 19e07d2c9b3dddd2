"""Guard: where a push may go. A subscriber's URL is somebody else's word, and this machine can reach more than they.

A name is resolved once; every address that it has must be permitted, and the connection goes to an address that was
looked at, not to the name. So a name that says something else a moment later (DNS rebinding) leads nowhere new.
"""

import queue
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

from runtime.errors import UnsafeUrlError

Network = IPv4Network | IPv6Network
Lookup = Callable[[str, int], Iterable[str]]
"""Returns the addresses of a name; raises ``OSError`` where it has none."""

DNS_TIMEOUT_SECONDS = 5.0
MAX_URL_LENGTH = 2000

# By IANA's registries of special purposes. Listed in full: what Python calls global differs from version to version,
# and counts 6to4, NAT64 and multicast in.
_SPECIAL_4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
    )
)
# Of IPv6 only 2000::/3 is given to networks of the world; in it: protocols (Teredo too), documentation, 6to4.
_WORLD_6 = IPv6Network("2000::/3")
_SPECIAL_6 = tuple(
    IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)


def is_public_address(address: IPv4Address | IPv6Address) -> bool:
    """Return whether an address belongs to a machine of the public internet, by itself and not by way of another."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _SPECIAL_4)
    return address in _WORLD_6 and not any(address in network for network in _SPECIAL_6)


def resolve_host(host: str, port: int) -> list[str]:
    """Ask the system for the addresses of a host."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class SsrfGuard:
    """Knows which addresses may be pushed to.

    Args:
        allowed: Networks that may be pushed to although they are not public, and without TLS.
        find: Resolves names.
    """

    def __init__(self, allowed: Iterable[str] = (), *, find: Lookup = resolve_host) -> None:
        self._allowed: tuple[Network, ...] = tuple(ip_network(text) for text in allowed)
        self._find = find

    def is_allowed(self, address: str, *, is_plain: bool = False) -> bool:
        """Return whether an address may be pushed to; ``is_plain`` means without TLS."""
        with suppress(ValueError):
            # A mapped address is one of IPv6 here, and none of the world's: it is refused with whatever is in it.
            parsed = ip_address(address.partition("%")[0])
            is_allowed = any(parsed in network for network in self._allowed if network.version == parsed.version)
            return is_allowed or (not is_plain and is_public_address(parsed))
        return False

    def resolve(self, host: str, port: int, seconds: float, *, is_plain: bool = False) -> list[str]:
        """Return the addresses of a host, all of them permitted.

        Raises:
            UnsafeUrlError: Where it has none in time, or one that may not be pushed to.
        """
        addresses = list(dict.fromkeys(self._in_time(host, port, seconds)))
        if not addresses:
            raise UnsafeUrlError("The URL's host has no address that can be found. Is its name right?")
        if not all(self.is_allowed(address, is_plain=is_plain) for address in addresses):
            raise UnsafeUrlError(_not_permitted(is_plain=is_plain))
        return addresses

    def check(self, url: str) -> None:
        """Check that a URL may be pushed to, by its form and by what its host's name means now.

        Raises:
            UnsafeUrlError: Saying what is wrong with it.
        """
        host, port, is_plain = _parts(url)
        self.resolve(host, port, DNS_TIMEOUT_SECONDS, is_plain=is_plain)

    def _in_time(self, host: str, port: int, seconds: float) -> list[str]:
        """Look a name up, for so long at most: the system's resolver takes as long as a stranger's server pleases."""
        found: queue.SimpleQueue[list[str]] = queue.SimpleQueue()

        def find() -> None:
            addresses: list[str] = []
            with suppress(OSError, UnicodeError):
                addresses = list(self._find(host, port))
            found.put(addresses)

        # One that is given up ends by itself, when the resolver does.
        threading.Thread(target=find, name="lookup", daemon=True).start()
        try:
            return found.get(timeout=seconds)
        except queue.Empty:
            return []


def _parts(url: str) -> tuple[str, int, bool]:
    """Return host, port and whether the way is without TLS."""
    if len(url) > MAX_URL_LENGTH or not (url.isascii() and url.isprintable()) or " " in url:
        raise UnsafeUrlError(
            f"The URL must be printable ASCII of at most {MAX_URL_LENGTH} characters; quote what is not."
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UnsafeUrlError("This is no URL: see its host and port.") from None
    if parts.scheme not in {"https", "http"} or not host:
        raise UnsafeUrlError("The URL must be whole, and start with https://.")
    if parts.username is not None or parts.password is not None or "#" in url:
        raise UnsafeUrlError("The URL must have neither a user nor a fragment in it: neither would be sent.")
    is_plain = parts.scheme == "http"
    if port == 0:
        raise UnsafeUrlError("The URL's port must not be 0.")
    return host, port or (80 if is_plain else 443), is_plain


def _not_permitted(*, is_plain: bool) -> str:
    if is_plain:
        return (
            "Without TLS only hosts in MELDWATCH_PUSH_ALLOWED_NETWORKS are pushed to. Give an https:// URL, or have the"
            " operator add the host's network."
        )
    return (
        "The URL's host has an address that is not public (private, loopback, link-local, multicast, or a tunnel)."
        " Give a public one, or have the operator add its network to MELDWATCH_PUSH_ALLOWED_NETWORKS."
    )
