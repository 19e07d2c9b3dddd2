"""Access: who may do what. Without any token set, nobody may do anything."""

import hashlib
import hmac
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from typing import Literal

from pydantic import SecretStr
from starlette.requests import Request

from service.errors import RightError, TokenError

Right = Literal["read", "admin"]
"""Who may act may read."""

Need = Literal["nothing", "nearness", "read", "admin"]
"""What a route asks of its caller; ``nearness`` is met from this machine, and by the right to read."""

_FORWARDED = ("forwarded", "x-forwarded-for")


class Access:
    """Knows the tokens, by their digests alone.

    Args:
        read_tokens: Tokens that may read.
        admin_tokens: Tokens that may also act.
    """

    def __init__(self, *, read_tokens: Iterable[SecretStr], admin_tokens: Iterable[SecretStr]) -> None:
        self._rights: tuple[tuple[bytes, Right], ...] = (
            *((_digest_of(token), "read") for token in read_tokens),
            *((_digest_of(token), "admin") for token in admin_tokens),
        )

    def check(self, request: Request, need: Need) -> None:
        """Let a request pass, or raise.

        Raises:
            TokenError: Without a valid token.
            RightError: With a token that may not do this.
        """
        if need == "nothing" or (need == "nearness" and _is_near(request)):
            return
        rights = self._rights_of(_token(request))
        if not rights:
            raise TokenError
        if need == "admin" and "admin" not in rights:
            raise RightError

    def _rights_of(self, token: bytes) -> set[Right]:
        """Compare with every token, each in constant time, so that time tells nothing about any."""
        digest = hashlib.sha256(token).digest()
        matches = [hmac.compare_digest(digest, known) for known, _right in self._rights]
        return {right for is_match, (_known, right) in zip(matches, self._rights, strict=True) if is_match}


def _digest_of(token: SecretStr) -> bytes:
    return hashlib.sha256(token.get_secret_value().encode()).digest()


def _token(request: Request) -> bytes:
    """Return the bearer token as it came. Headers are bytes: a proxy or an attacker may send any."""
    values = [value for name, value in request.scope["headers"] if name == b"authorization"]
    if len(values) != 1:
        raise TokenError
    scheme, _, token = values[0].strip().partition(b" ")
    if scheme.lower() != b"bearer" or not token.strip():
        raise TokenError
    return bytes(token.strip())


def _is_near(request: Request) -> bool:
    """Return whether this machine itself asks, not a proxy on it for somebody else."""
    if request.client is None or any(name in request.headers for name in _FORWARDED):
        return False
    try:
        address = ip_address(request.client.host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback
