import json
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import Route

from runtime.clock import utcnow
from runtime.queues import circuit_breaker
from schemas.api_queries import ConnectionQuery, EventQuery, StreamQuery, WebhookQuery
from schemas.tables import TaskLeaseRow
from service.http.problem_details import MEDIA_TYPE
from tests.service.conftest import Api
from tests.support import row_factory

MOVE = {"previous": "c1", "current": "c2", "duplicate_ids": ["c2"], "role": "lost_primary"}


@pytest.fixture
def document(api: Api) -> Any:
    """The document, requested without a token."""
    return api.anonymous.get("/openapi.json").json()


def test_the_document_is_valid(document: Any) -> None:
    """By the validator of OpenAPI 3.1."""
    OpenAPIV31SpecValidator(document).validate()


def test_every_route_is_described(api: Api, document: Any) -> None:
    """The document has exactly the routes of the application, HEAD aside."""
    routes = {
        (route.path, method.lower())
        for route in api.app.routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }

    assert routes == {(path, method) for path, methods in document["paths"].items() for method in methods}


def test_operation_ids_are_unique(document: Any) -> None:
    """Generated clients use them as names of functions."""
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]

    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("path", "model"),
    [
        ("/api/connections", ConnectionQuery),
        ("/api/events", EventQuery),
        ("/api/events/stream", StreamQuery),
        ("/api/webhooks", WebhookQuery),
    ],
)
def test_every_parameter_is_described(document: Any, path: str, model: type[Any]) -> None:
    """From the query model of the route."""
    parameters = document["paths"][path]["get"]["parameters"]

    assert set(model.model_fields) == {parameter["name"] for parameter in parameters if parameter["in"] == "query"}


def test_bounds_are_described(document: Any) -> None:
    """Minimum, maximum, default and length."""
    parameters = {item["name"]: item["schema"] for item in document["paths"]["/api/events"]["get"]["parameters"]}

    assert parameters["limit"] == {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}
    assert parameters["wait"] == {"type": "number", "minimum": 0, "maximum": 30, "default": 0}
    assert parameters["connection_id"] == {"type": "string", "minLength": 1, "maxLength": 3000}


def test_the_stream_is_described(document: Any) -> None:
    """With its header, and without a schema: none can describe an endless response."""
    operation = document["paths"]["/api/events/stream"]["get"]
    headers = {item["name"]: item["required"] for item in operation["parameters"] if item["in"] == "header"}

    assert headers == {"Last-Event-ID": False}
    assert operation["responses"]["200"]["content"] == {"text/event-stream": {"schema": {}}}
    assert operation["responses"].keys() >= {"401", "422", "503"}


def test_access_levels_are_described(document: Any) -> None:
    """Operations have their security requirement and the responses 401 and 403."""
    paths = document["paths"]
    described = {
        path: (operation["security"], {"401", "403"} & operation["responses"].keys())
        for path, methods in paths.items()
        for operation in methods.values()
    }

    bearer: list[dict[str, list[str]]] = [{"bearer": []}]
    assert (bearer, {"401"}) == described["/api/connections"]
    assert (bearer, {"401", "403"}) == described["/api/connections/{id}/refresh"]
    assert ([{}, *bearer], {"401"}) == described["/metrics"]
    assert ([], set()) == described["/healthz"]


REQUESTS = [
    ("/api/connections", "/api/connections", 200),
    ("/api/connections", "/api/connections?limit=0", 422),
    ("/api/connections/{id}", "/api/connections/c1", 200),
    ("/api/connections/{id}", "/api/connections/nobody", 404),
    ("/api/connections/{id}/refresh", "/api/connections/c1/refresh", 202),
    ("/api/connections/{id}/refresh", "/api/connections/nobody/refresh", 404),
    ("/api/events", "/api/events", 200),
    ("/api/events", "/api/events?after=9", 200),
    ("/api/webhooks", "/api/webhooks", 200),
    ("/api/webhooks/{event_id}", "/api/webhooks/e1", 200),
    ("/api/webhooks/{event_id}", "/api/webhooks/nothing", 404),
    ("/healthz", "/healthz", 200),
    ("/readyz", "/readyz", 200),
]


@pytest.mark.parametrize(("path", "url", "status"), REQUESTS)
def test_responses_match_the_document(api: Api, document: Any, path: str, url: str, status: int) -> None:
    """Every response has the described status, media type and schema."""
    moved = {**row_factory.event(2).data, **MOVE}
    row_factory.store(
        api.database,
        row_factory.connection("c1", created_at=row_factory.TIME, service_provider_details={"a": [1, None]}),
        row_factory.event(1),
        row_factory.event(2, type="connection.primary_duplicate_moved", data=moved),
        row_factory.webhook("e1", processed_at=row_factory.TIME),
        TaskLeaseRow(name="clock", holder="x", until=utcnow(), ran_at=utcnow()),
    )

    (method,) = document["paths"][path]
    response = api.admin.request(method.upper(), url)

    assert status == response.status_code
    check_response(document, path, response)


def test_a_failed_readiness_check_matches_the_document(api: Api, document: Any) -> None:
    """The response 503 with its checks."""
    with api.database.write() as session:
        circuit_breaker.open_circuit(api.database, session, reason="refused", detail="", seconds=30)

    response = api.anonymous.get("/readyz")

    assert response.status_code == 503
    check_response(document, "/readyz", response)


@pytest.mark.parametrize("path", ["/api/connections", "/api/events", "/api/webhooks"])
def test_a_missing_token_matches_the_document(api: Api, document: Any, path: str) -> None:
    """The response 401 with its challenge."""
    response = api.anonymous.get(path)

    assert response.status_code == 401
    check_response(document, path, response)


def check_response(document: Any, path: str, response: Any) -> None:
    """Compare a response with its description."""
    (operation,) = document["paths"][path].values()
    described = operation["responses"][str(response.status_code)]
    if "$ref" in described:
        described = document["components"]["responses"][described["$ref"].rsplit("/", 1)[1]]
    (media_type, content), *others = described["content"].items()
    schema = {**content["schema"], "components": document["components"]}
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER

    assert ([], media_type) == (others, response.headers["content-type"])
    assert response.status_code < 400 or media_type == MEDIA_TYPE
    assert set(map(str.lower, described.get("headers", {}))) <= set(response.headers)
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(json.loads(response.text))
