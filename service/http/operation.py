"""API operation: one method of one route, with its documentation. Routing and the OpenAPI document derive from it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from schemas.api_queries import Query
from service.http.auth import AccessLevel


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseSpec:
    """A documented response of an operation.

    Attributes:
        status: The HTTP status.
        description: When the operation sends this response.
        model: The model of the JSON body; None for an empty body, or one that is not JSON.
        media_type: The media type of the body; None for an empty body.
    """

    status: int = 200
    description: str
    model: type[BaseModel] | None = None
    media_type: str | None = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one route.

    Attributes:
        method: The HTTP method.
        path: The path, with ``{names}`` of path parameters.
        operation_id: The unique ``operationId`` of the OpenAPI document.
        summary: What the operation does, in one sentence.
        access: What the caller must prove.
        query_model: The model of the query parameters; None if the query is ignored.
        responses: The documented responses.
        problem_statuses: Error statuses beside those that every operation of this kind can return.
        required_headers: Names and descriptions of required request headers.
        optional_headers: Names and descriptions of optional request headers.
        body_description: Description of the request body; None without a body, or if ``body_model`` describes it.
        body_model: The model of the JSON request body.
        handler: Answers a request. Its second argument is the parsed body, else the parsed query, else None.
    """

    method: Literal["GET", "POST", "PATCH", "DELETE"]
    path: str
    operation_id: str
    summary: str
    access: AccessLevel
    query_model: type[Query] | None = None
    responses: tuple[ResponseSpec, ...]
    problem_statuses: tuple[int, ...] = ()
    required_headers: tuple[tuple[str, str], ...] = ()
    optional_headers: tuple[tuple[str, str], ...] = ()
    body_description: str | None = None
    body_model: type[BaseModel] | None = None
    handler: Callable[[Request, Any], Awaitable[Response]]
