"""An operation: one method of one route, with all that a caller must know of it. Routes and OpenAPI come from it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from schemas.api_queries import Query
from service.http.auth import Need


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseSpec:
    """What an operation says when all is well, or, with ``error`` statuses, in a way of its own.

    Attributes:
        status: The HTTP status.
        description: When it comes, in words.
        shape: What the body is; None for an empty body, or one that is no JSON.
        media_type: Of the body; None for an empty one.
    """

    status: int = 200
    description: str
    shape: type[BaseModel] | None = None
    media_type: str | None = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one route.

    Attributes:
        method: The HTTP method.
        path: The path, with ``{names}`` for what varies.
        name: The operation's id, unique.
        summary: What it does, in a sentence.
        need: What is asked of the caller.
        query: What may be asked; None where the query is not looked at.
        answers: What it says of its own.
        problems: Statuses that it may answer with as a problem, beside those that all of its kind may.
        headers: Request headers that it needs, with what they are.
        hints: Request headers that it heeds, with what they are.
        body: What the JSON body is that it needs, in words; None where it needs none, or ``takes`` says it.
        takes: The shape of the JSON body that it needs.
        handle: Answers a request; is handed the body, the query, or None.
    """

    method: Literal["GET", "POST", "PATCH", "DELETE"]
    path: str
    name: str
    summary: str
    need: Need
    query: type[Query] | None = None
    answers: tuple[ResponseSpec, ...]
    problems: tuple[int, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    hints: tuple[tuple[str, str], ...] = ()
    body: str | None = None
    takes: type[BaseModel] | None = None
    handle: Callable[[Request, Any], Awaitable[Response]]
