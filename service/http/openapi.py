"""OpenAPI: the operations and their shapes, told as an OpenAPI 3.1 document."""

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.routing import compile_path

from schemas.api_queries import Query
from schemas.api_responses import Problem
from schemas.events import DATA
from service.http import problem_details
from service.http.auth import Need
from service.http.operation import Operation, ResponseSpec

Json = dict[str, Any]

VERSION = "1"
"""Of the API, not of the program: it changes when a caller must."""

SCHEMAS = "#/components/schemas/"
RESPONSES = "#/components/responses/"
SECURITY: dict[Need, list[Json]] = {
    "nothing": [],
    "nearness": [{}, {"bearer": []}],
    "read": [{"bearer": []}],
    "admin": [{"bearer": []}],
}
WORDS: dict[Need, str] = {
    "nothing": "Needs no token.",
    "nearness": "Needs no token from this machine, otherwise a read or an admin token.",
    "read": "Needs a read or an admin token.",
    "admin": "Needs an admin token.",
}


def document(operations: Sequence[Operation]) -> Json:
    """Return the document that describes the operations."""
    paths: Json = {}
    for operation in operations:
        path = compile_path(operation.path)[1]
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "meldwatch",
            "version": VERSION,
            "description": "A true local mirror of Meld bank connections, and an ordered feed of what changed.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(operations),
            "responses": {str(status): _problem(status) for status in _problem_statuses(operations)},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: Operation) -> Json:
    responses = {str(answer.status): _answer(answer) for answer in operation.answers}
    for status in _problems_of(operation):
        responses.setdefault(str(status), {"$ref": f"{RESPONSES}{status}"})
    described = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": WORDS[operation.need],
        "security": SECURITY[operation.need],
        "parameters": [*_path_parameters(operation), *_header_parameters(operation), *_query_parameters(operation)],
        "responses": dict(sorted(responses.items())),
    }
    return described | ({"requestBody": _body(operation)} if operation.body or operation.takes else {})


def _body(operation: Operation) -> Json:
    schema = {"$ref": f"{SCHEMAS}{operation.takes.__name__}"} if operation.takes else {}
    text = operation.body or (operation.takes and operation.takes.__doc__)
    return {"description": text, "required": True, "content": {"application/json": {"schema": schema}}}


def _problems_of(operation: Operation) -> list[int]:
    """Return the statuses of the problems that an operation may answer with."""
    statuses = set(operation.problems)
    statuses |= {408, 413, 422} if operation.takes else set()
    statuses |= {500} | ({422} if operation.query else set()) | ({404} if "{" in operation.path else set())
    statuses |= {"nothing": set(), "nearness": {401}, "read": {401}, "admin": {401, 403}}[operation.need]
    return sorted(statuses)


def _problem_statuses(operations: Iterable[Operation]) -> list[int]:
    return sorted({status for operation in operations for status in _problems_of(operation)})


def _problem(status: int) -> Json:
    headers = {name: {"schema": {"type": "string"}} for name in problem_details.HEADERS.get(status, {})}
    return {
        "description": HTTPStatus(status).phrase,
        "content": {problem_details.MEDIA_TYPE: {"schema": {"$ref": f"{SCHEMAS}{Problem.__name__}"}}},
    } | ({"headers": headers} if headers else {})


def _answer(answer: ResponseSpec) -> Json:
    if answer.media_type is None:
        return {"description": answer.description}
    schema = {"$ref": f"{SCHEMAS}{answer.shape.__name__}"} if answer.shape else {}
    return {"description": answer.description, "content": {answer.media_type: {"schema": schema}}}


def _path_parameters(operation: Operation) -> list[Json]:
    names = compile_path(operation.path)[2]
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _header_parameters(operation: Operation) -> list[Json]:
    return [
        {"name": name, "in": "header", "required": is_needed, "description": text, "schema": {"type": "string"}}
        for headers, is_needed in ((operation.headers, True), (operation.hints, False))
        for name, text in headers
    ]


def _query_parameters(operation: Operation) -> list[Json]:
    return [_query_parameter(name, schema) for name, schema in _properties(operation.query).items()]


def _query_parameter(name: str, schema: Json) -> Json:
    """Return a parameter. Its being left out is not a value that it may have."""
    if "anyOf" in schema:
        present = next(choice for choice in schema["anyOf"] if choice != {"type": "null"})
        schema = {**{key: value for key, value in schema.items() if key not in {"anyOf", "default"}}, **present}
    described = {"description": schema.pop("description")} if "description" in schema else {}
    schema.pop("title", None)
    return {"name": name, "in": "query", "required": False, **described, "schema": schema}


def _properties(query: type[Query] | None) -> Json:
    return query.model_json_schema().get("properties", {}) if query else {}


def _schemas(operations: Sequence[Operation]) -> Json:
    shapes: list[type[BaseModel]] = [Problem, *DATA.values()]
    shapes += [answer.shape for operation in operations for answer in operation.answers if answer.shape]
    shaped: list[tuple[type[BaseModel], Literal["serialization", "validation"]]] = [
        (shape, "serialization") for shape in dict.fromkeys(shapes)
    ]
    shaped += [(operation.takes, "validation") for operation in operations if operation.takes]
    schemas: Json = models_json_schema(shaped, ref_template=SCHEMAS + "{model}")[1]["$defs"]
    if "Event" in schemas:
        # What an event's data may be is known, though it is handed on as it was stored.
        data = [{"$ref": SCHEMAS + shape.__name__} for shape in DATA.values()]
        schemas["Event"]["properties"]["data"] = {"anyOf": data}
    return schemas
