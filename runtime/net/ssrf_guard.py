"""SSRF guard: decides which addresses a push may connect to. Subscribers' URLs are untrusted input.

This machine may reach addresses that a subscriber cannot, such as internal services. Therefore a host name is resolved
once, all of its addresses must be permitted, and the connection goes to a checked address instead of the name. A DNS
answer that changes between check and connection (DNS rebinding) has no effect.
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
"""Takes host and port; returns the addresses of the host, or raises ``OSError``."""

DNS_TIMEOUT_SECONDS = 5.0
MAX_URL_LENGTH = 2000

# From IANA's special-purpose address registries. Listed in full, because the definition of ``is_global`` in Python
# differs between versions, and includes 6to4, NAT64 and multicast.
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
# In IPv6 only 2000::/3 is global unicast; inside it are special ranges: protocols (also Teredo), documentation, 6to4.
_GLOBAL_UNICAST_6 = IPv6Network("2000::/3")
_SPECIAL_6 = tuple(
    IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
)


def is_public_address(address: IPv4Address | IPv6Address) -> bool:
    """Return whether an address is a public internet address, and embeds no other address (6to4, NAT64, mapped)."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _SPECIAL_4)
    return address in _GLOBAL_UNICAST_6 and not any(address in network for network in _SPECIAL_6)


def resolve_host(host: str, port: int) -> list[str]:
    """Return the addresses of a host, from the operating system's resolver."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


class SsrfGuard:
    """Checks URLs and addresses that events are pushed to.

    Args:
        allowed: Networks that may be pushed to although they are not public, also without TLS.
        lookup: Resolves host names.
    """

    def __init__(self, allowed: Iterable[str] = (), *, lookup: Lookup = resolve_host) -> None:
        self._allowed: tuple[Network, ...] = tuple(ip_network(text) for text in allowed)
        self._lookup = lookup

    def is_allowed(self, address: str, *, is_plain: bool = False) -> bool:
        """Return whether an address may be pushed to. ``is_plain`` means without TLS."""
        with suppress(ValueError):
            # An IPv4-mapped address is an IPv6 address that is not global unicast: it is refused, whatever it embeds.
            parsed = ip_address(address.partition("%")[0])
            is_allowed = any(parsed in network for network in self._allowed if network.version == parsed.version)
            return is_allowed or (not is_plain and is_public_address(parsed))
        return False

    def resolve(self, host: str, port: int, seconds: float, *, is_plain: bool = False) -> list[str]:
        """Return the addresses of a host, if all of them are permitted.

        Raises:
            UnsafeUrlError: If there is no address in time, or one of them is not permitted.
        """
        addresses = list(dict.fromkeys(self._lookup_in_time(host, port, seconds)))
        if not addresses:
            raise UnsafeUrlError("The URL's host name cannot be resolved. Is it right?")
        if not all(self.is_allowed(address, is_plain=is_plain) for address in addresses):
            raise UnsafeUrlError(_describe_refusal(is_plain=is_plain))
        return addresses

    def check(self, url: str) -> None:
        """Check that a URL may be pushed to: its syntax, and the present addresses of its host.

        Raises:
            UnsafeUrlError: If it may not; the message says why.
        """
        host, port, is_plain = _parse_url(url)
        self.resolve(host, port, DNS_TIMEOUT_SECONDS, is_plain=is_plain)

    def _lookup_in_time(self, host: str, port: int, seconds: float) -> list[str]:
        """Resolve a host with a timeout. The system's resolver has none, and depends on untrusted DNS servers."""
        found: queue.SimpleQueue[list[str]] = queue.SimpleQueue()

        def resolve() -> None:
            addresses: list[str] = []
            with suppress(OSError, UnicodeError):
                addresses = list(self._lookup(host, port))
            found.put(addresses)

        # After a timeout the thread ends by itself when the resolver returns.
        threading.Thread(target=resolve, name="dns-lookup", daemon=True).start()
        try:
            return found.get(timeout=seconds)
        except queue.Empty:
            return []


def _parse_url(url: str) -> tuple[str, int, bool]:
    """Return host, port and whether the URL is plain HTTP."""
    if len(url) > MAX_URL_LENGTH or not (url.isascii() and url.isprintable()) or " " in url:
        raise UnsafeUrlError(
            f"The URL must be printable ASCII of at most {MAX_URL_LENGTH} characters; percent-encode all others."
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UnsafeUrlError("The URL is not valid: check its host and port.") from None
    if parts.scheme not in {"https", "http"} or not host:
        raise UnsafeUrlError("The URL must be absolute, and start with https://.")
    if parts.username is not None or parts.password is not None or "#" in url:
        raise UnsafeUrlError("The URL must not contain a user or a fragment, because neither would be sent.")
    is_plain = parts.scheme == "http"
    if port == 0:
        raise UnsafeUrlError("The URL's port must not be 0.")
    return host, port or (80 if is_plain else 443), is_plain


def _describe_refusal(*, is_plain: bool) -> str:
    if is_plain:
        return (
            "Without TLS, events are pushed only to hosts in MELDWATCH_PUSH_ALLOWED_NETWORKS. Use an https:// URL, or"
            " ask the operator to add the host's network."
        )
    return (
        "The URL's host has an address that is not public (private, loopback, link-local, multicast, or a tunnel)."
        " Use a host with public addresses, or ask the operator to add its network to MELDWATCH_PUSH_ALLOWED_NETWORKS."
    )
