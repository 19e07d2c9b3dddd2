"""Access: who may do what. Without any token set, nobody may do anything."""

import hashlib
import hmac
from collections.abc import Iterable, Iterator
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


_WHO = "meldwatch.who"


class TokenAuth:
    """Knows the tokens, by their digests alone, and what each is called: ``alice:token`` is a token of alice's.

    Who bears such a token may send it with its name or without. One without a name is called after its digest.

    Args:
        read_tokens: Tokens that may read.
        admin_tokens: Tokens that may also act.
    """

    def __init__(self, *, read_tokens: Iterable[SecretStr], admin_tokens: Iterable[SecretStr]) -> None:
        self._rights: tuple[tuple[bytes, str, Right], ...] = (
            *((digest, name, "read") for token in read_tokens for digest, name in _known_by(token)),
            *((digest, name, "admin") for token in admin_tokens for digest, name in _known_by(token)),
        )

    def check(self, request: Request, need: Need) -> None:
        """Let a request pass, and note who sent it, or raise.

        Raises:
            TokenError: Without a valid token.
            RightError: With a token that may not do this.
        """
        if need == "nothing" or (need == "nearness" and _is_near(request)):
            return
        names = self._names_of(_token(request))
        if not names:
            raise TokenError
        if need == "admin" and "admin" not in names:
            raise RightError
        request.scope[_WHO] = names.get("admin") or names["read"]

    def _names_of(self, token: bytes) -> dict[Right, str]:
        """Return what a token is called, by the rights that it has.

        Compares with every token, each in constant time, so that time tells nothing about any.
        """
        digest = hashlib.sha256(token).digest()
        matches = [hmac.compare_digest(digest, known) for known, _name, _right in self._rights]
        return {right: name for is_match, (_known, name, right) in zip(matches, self._rights, strict=True) if is_match}


def who_of(request: Request) -> str:
    """Return the name of the token that a request was let pass with."""
    return str(request.scope[_WHO])


def _known_by(token: SecretStr) -> Iterator[tuple[bytes, str]]:
    """Yield the digests that a token is known by, each with the token's name."""
    text = token.get_secret_value()
    digest = hashlib.sha256(text.encode())
    name, separator, secret = text.partition(":")
    is_named = bool(name and separator and secret)
    yield digest.digest(), name if is_named else f"token {digest.hexdigest()[:8]}"
    if is_named:
        yield hashlib.sha256(secret.encode()).digest(), name


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
