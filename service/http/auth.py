"""Authentication and authorization: bearer tokens of the API, and the metrics' exception for loopback addresses.

Without any token in the settings, the API is closed.
"""

import hashlib
import hmac
from collections.abc import Iterable, Iterator
from ipaddress import IPv6Address, ip_address
from typing import Literal

from pydantic import SecretStr
from starlette.requests import Request

from service.errors import ForbiddenError, InvalidTokenError

Permission = Literal["read", "admin"]
"""What a token permits; ``admin`` includes ``read``."""

AccessLevel = Literal["public", "loopback", "read", "admin"]
"""What an operation requires of its caller; ``loopback``: a request from this machine, or a token that may read."""

_PROXY_HEADERS = ("forwarded", "x-forwarded-for")

_CALLER_NAME = "meldwatch.caller_name"
"""Key of the caller's name in the ASGI scope."""


class TokenAuth:
    """Verifies bearer tokens. It stores only their SHA-256 digests, and a name of each.

    ``alice:token`` in the settings is a token that is named alice; its bearer may send it with the name or without.
    The name of a token without one is derived from its digest.

    Args:
        read_tokens: Tokens that may read.
        admin_tokens: Tokens that may also change things.
    """

    def __init__(self, *, read_tokens: Iterable[SecretStr], admin_tokens: Iterable[SecretStr]) -> None:
        self._tokens: tuple[tuple[bytes, str, Permission], ...] = (
            *((digest, name, "read") for token in read_tokens for digest, name in _digests_of(token)),
            *((digest, name, "admin") for token in admin_tokens for digest, name in _digests_of(token)),
        )

    def authorize(self, request: Request, access: AccessLevel) -> None:
        """Check a request's token, and store its name for ``caller_name``.

        Raises:
            InvalidTokenError: The request has no valid token.
            ForbiddenError: The token lacks the permission.
        """
        if access == "public" or (access == "loopback" and _is_loopback(request)):
            return
        names = self._names_by_permission(_bearer_token(request))
        if not names:
            raise InvalidTokenError
        if access == "admin" and "admin" not in names:
            raise ForbiddenError
        request.scope[_CALLER_NAME] = names.get("admin") or names["read"]

    def _names_by_permission(self, token: bytes) -> dict[Permission, str]:
        """Return the token's name for each permission that it has.

        Compares with every known digest, each in constant time, so that the duration reveals nothing.
        """
        digest = hashlib.sha256(token).digest()
        matches = [hmac.compare_digest(digest, known) for known, _name, _permission in self._tokens]
        return {
            permission: name
            for is_match, (_known, name, permission) in zip(matches, self._tokens, strict=True)
            if is_match
        }


def caller_name(request: Request) -> str:
    """Return the name of the token that authorized a request."""
    return str(request.scope[_CALLER_NAME])


def _digests_of(token: SecretStr) -> Iterator[tuple[bytes, str]]:
    """Yield the digests that match a configured token, with and without its name, each with the name."""
    text = token.get_secret_value()
    digest = hashlib.sha256(text.encode())
    name, separator, secret = text.partition(":")
    is_named = bool(name and separator and secret)
    yield digest.digest(), name if is_named else f"token {digest.hexdigest()[:8]}"
    if is_named:
        yield hashlib.sha256(secret.encode()).digest(), name


def _bearer_token(request: Request) -> bytes:
    """Return the bearer token as raw bytes: a header value need not be valid text."""
    values = [value for name, value in request.scope["headers"] if name == b"authorization"]
    if len(values) != 1:
        raise InvalidTokenError
    scheme, _, token = values[0].strip().partition(b" ")
    if scheme.lower() != b"bearer" or not token.strip():
        raise InvalidTokenError
    return bytes(token.strip())


def _is_loopback(request: Request) -> bool:
    """Return whether the request comes from this machine and was not forwarded by a proxy on it."""
    if request.client is None or any(name in request.headers for name in _PROXY_HEADERS):
        return False
    try:
        address = ip_address(request.client.host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback
