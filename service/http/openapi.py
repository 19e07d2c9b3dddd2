"""OpenAPI 3.1 document, generated from the operations and their pydantic models."""

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.routing import compile_path

from schemas.api_queries import Query
from schemas.api_responses import Problem
from schemas.events import DATA_MODELS
from service.http import problem_details
from service.http.auth import AccessLevel
from service.http.operation import Operation, ResponseSpec

Json = dict[str, Any]

API_VERSION = "1"
"""Version of the API, not of the program: it changes when callers must change."""

SCHEMAS = "#/components/schemas/"
RESPONSES = "#/components/responses/"
SECURITY: dict[AccessLevel, list[Json]] = {
    "public": [],
    "loopback": [{}, {"bearer": []}],
    "read": [{"bearer": []}],
    "admin": [{"bearer": []}],
}
ACCESS_DESCRIPTIONS: dict[AccessLevel, str] = {
    "public": "Requires no token.",
    "loopback": "Requires no token from this machine, otherwise a read or an admin token.",
    "read": "Requires a read or an admin token.",
    "admin": "Requires an admin token.",
}


def build_document(operations: Sequence[Operation]) -> Json:
    """Return the OpenAPI document of the operations."""
    paths: Json = {}
    for operation in operations:
        path = compile_path(operation.path)[1]
        paths.setdefault(path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "meldwatch",
            "version": API_VERSION,
            "description": "A true local mirror of Meld bank connections, and an ordered feed of what changed.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(operations),
            "responses": {str(status): _problem_response(status) for status in _all_error_statuses(operations)},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(operation: Operation) -> Json:
    responses = {str(response.status): _response(response) for response in operation.responses}
    for status in _error_statuses(operation):
        responses.setdefault(str(status), {"$ref": f"{RESPONSES}{status}"})
    described = {
        "operationId": operation.operation_id,
        "summary": operation.summary,
        "description": ACCESS_DESCRIPTIONS[operation.access],
        "security": SECURITY[operation.access],
        "parameters": [*_path_parameters(operation), *_header_parameters(operation), *_query_parameters(operation)],
        "responses": dict(sorted(responses.items())),
    }
    return described | (
        {"requestBody": _request_body(operation)} if operation.body_description or operation.body_model else {}
    )


def _request_body(operation: Operation) -> Json:
    schema = {"$ref": f"{SCHEMAS}{operation.body_model.__name__}"} if operation.body_model else {}
    text = operation.body_description or (operation.body_model and operation.body_model.__doc__)
    return {"description": text, "required": True, "content": {"application/json": {"schema": schema}}}


def _error_statuses(operation: Operation) -> list[int]:
    """Return the error statuses that an operation can return."""
    statuses = set(operation.problem_statuses)
    statuses |= {408, 413, 422} if operation.body_model else set()
    statuses |= {500} | ({422} if operation.query_model else set()) | ({404} if "{" in operation.path else set())
    statuses |= {"public": set(), "loopback": {401}, "read": {401}, "admin": {401, 403}}[operation.access]
    return sorted(statuses)


def _all_error_statuses(operations: Iterable[Operation]) -> list[int]:
    return sorted({status for operation in operations for status in _error_statuses(operation)})


def _problem_response(status: int) -> Json:
    headers = {name: {"schema": {"type": "string"}} for name in problem_details.HEADERS.get(status, {})}
    return {
        "description": HTTPStatus(status).phrase,
        "content": {problem_details.MEDIA_TYPE: {"schema": {"$ref": f"{SCHEMAS}{Problem.__name__}"}}},
    } | ({"headers": headers} if headers else {})


def _response(response: ResponseSpec) -> Json:
    if response.media_type is None:
        return {"description": response.description}
    schema = {"$ref": f"{SCHEMAS}{response.model.__name__}"} if response.model else {}
    return {"description": response.description, "content": {response.media_type: {"schema": schema}}}


def _path_parameters(operation: Operation) -> list[Json]:
    names = compile_path(operation.path)[2]
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _header_parameters(operation: Operation) -> list[Json]:
    return [
        {"name": name, "in": "header", "required": is_required, "description": text, "schema": {"type": "string"}}
        for headers, is_required in ((operation.required_headers, True), (operation.optional_headers, False))
        for name, text in headers
    ]


def _query_parameters(operation: Operation) -> list[Json]:
    return [_query_parameter(name, schema) for name, schema in _properties(operation.query_model).items()]


def _query_parameter(name: str, schema: Json) -> Json:
    """Return a parameter. An optional parameter is left out, never null, so null is not one of its types."""
    if "anyOf" in schema:
        present = next(choice for choice in schema["anyOf"] if choice != {"type": "null"})
        schema = {**{key: value for key, value in schema.items() if key not in {"anyOf", "default"}}, **present}
    described = {"description": schema.pop("description")} if "description" in schema else {}
    schema.pop("title", None)
    return {"name": name, "in": "query", "required": False, **described, "schema": schema}


def _properties(model: type[Query] | None) -> Json:
    return model.model_json_schema().get("properties", {}) if model else {}


def _schemas(operations: Sequence[Operation]) -> Json:
    response_models: list[type[BaseModel]] = [Problem, *DATA_MODELS.values()]
    response_models += [
        response.model for operation in operations for response in operation.responses if response.model
    ]
    models: list[tuple[type[BaseModel], Literal["serialization", "validation"]]] = [
        (model, "serialization") for model in dict.fromkeys(response_models)
    ]
    models += [(operation.body_model, "validation") for operation in operations if operation.body_model]
    schemas: Json = models_json_schema(models, ref_template=SCHEMAS + "{model}")[1]["$defs"]
    if "Event" in schemas:
        # The API returns stored event data unparsed; its possible shapes are documented all the same.
        data = [{"$ref": SCHEMAS + model.__name__} for model in DATA_MODELS.values()]
        schemas["Event"]["properties"]["data"] = {"anyOf": data}
    return schemas
