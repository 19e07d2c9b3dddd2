"""Baseline servers for the ingest figure: the same server stack (uvicorn, Starlette), doing less.

    python -m bench.harness.baseline_servers verify PORT
    python -m bench.harness.baseline_servers insert PORT DATABASE_URL

``verify`` only verifies the signature. ``insert`` also stores the same row as meldwatch, with an encrypted body, by one
INSERT and one commit per request: on PostgreSQL over an async pool, on SQLite in a thread. The process imports little,
so that its heap stays small and garbage collection fast.
"""

import asyncio
import json
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import uvicorn
import uvloop
from psycopg_pool import AsyncConnectionPool
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.harness.signed_webhooks import ENCRYPTION_KEY, PATH, SECRET, webhook_url
from runtime.security.encryption import Encryption
from service.ingest.payload import parse_hint
from service.ingest.signature import SignatureRefusal, SignatureVerifier, TimestampWindow, VerifiedSignature

POOL_SIZE = 16
"""Connections of the PostgreSQL pool."""

COLUMNS = (
    "event_id", "type", "account_id", "connection_id", "hint_status", "occurred_at", "signed_at", "received_at",
    "url", "headers", "body", "encrypted_with", "deliveries", "delivered_at",
)  # fmt: skip
Row = tuple[Any, ...]
Insert = Callable[[Row], Awaitable[None]]


@asynccontextmanager
async def _no_insert(_url: str) -> AsyncIterator[Insert | None]:
    yield None


@asynccontextmanager
async def _postgres_insert(url: str) -> AsyncIterator[Insert]:
    marks = ", ".join("%s::jsonb" if name == "headers" else "%s" for name in COLUMNS)
    statement = f"INSERT INTO webhook ({', '.join(COLUMNS)}) VALUES ({marks})"
    pool = AsyncConnectionPool(url, min_size=POOL_SIZE, max_size=POOL_SIZE, kwargs={"autocommit": True}, open=False)

    async def insert(row: Row) -> None:
        async with pool.connection() as connection:
            await connection.execute(statement, row)

    async with pool:
        yield insert


@asynccontextmanager
async def _sqlite_insert(url: str) -> AsyncIterator[Insert]:
    statement = f"INSERT INTO webhook ({', '.join(COLUMNS)}) VALUES ({', '.join('?' for _ in COLUMNS)})"
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    # SQLite has one writer at a time: more threads would only wait for each other.
    with ThreadPoolExecutor(1) as executor:

        async def insert(row: Row) -> None:
            plain = [str(value) if isinstance(value, datetime) else value for value in row]
            await asyncio.get_running_loop().run_in_executor(executor, connection.execute, statement, plain)

        yield insert
    connection.close()


def _app(port: int, open_insert: Callable[[str], Any], database_url: str) -> Starlette:
    window = TimestampWindow(max_age=timedelta(days=4), max_skew=timedelta(minutes=5))
    verifier = SignatureVerifier(urls=[webhook_url(port)], secrets=[SECRET], window=window)
    encryption = Encryption([SecretStr(ENCRYPTION_KEY)])
    inserts: list[Insert | None] = []

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with open_insert(database_url) as insert:
            inserts.append(insert)
            yield

    async def receive(request: Request) -> Response:
        body = await request.body()
        verdict = verifier.verify(request.headers.raw, body, datetime.now(UTC))
        if isinstance(verdict, SignatureRefusal):
            return Response(status_code=401)
        if inserts[0] is not None:
            await inserts[0](_row(request, body, verdict, encryption))
        return Response(status_code=200)

    return Starlette(routes=[Route(PATH, receive, methods=["POST"])], lifespan=lifespan)


def _row(request: Request, body: bytes, verified: VerifiedSignature, encryption: Encryption) -> Row:
    hint, now = parse_hint(body), datetime.now(UTC)
    headers = {name: value for name, value in request.headers.items() if name.startswith("meld-")}
    named = (hint.event_id, hint.type, hint.account_id, hint.connection_id, hint.status, hint.occurred_at)
    encrypted = (encryption.encrypt_bytes(body), encryption.key_name)
    return (*named, verified.signed_at, now, verified.url, json.dumps(headers), *encrypted, 1, now)


def _serve(port: int, open_insert: Callable[[str], Any], database_url: str = "") -> None:
    config = uvicorn.Config(
        _app(port, open_insert, database_url), host="127.0.0.1", port=port, http="httptools", ws="none",
        log_config=None, access_log=False, server_header=False, proxy_headers=False, backlog=2048,
    )  # fmt: skip
    uvloop.run(uvicorn.Server(config).serve())


def main(kind: str, port: int, database_url: str = "") -> None:
    """Serve one of the baselines until stopped."""
    if kind == "verify":
        _serve(port, _no_insert)
    else:
        _serve(port, _postgres_insert if database_url.startswith("postgresql") else _sqlite_insert, database_url)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
