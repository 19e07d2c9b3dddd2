"""Middleware for the Meld-Version header, which every answer of Meld contains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MELD_VERSION = "Meld-Version"
DEFAULT_VERSION = "2026-02-03"


class VersionHeaderMiddleware:
    """Adds the requested Meld-Version, or the account's default, to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and add the header to its answer."""
        version = Headers(scope=scope).get(MELD_VERSION, DEFAULT_VERSION)

        async def send_with_version(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[MELD_VERSION] = version
            await send(message)

        await self._app(scope, receive, send_with_version)
