import json
from pathlib import Path
from typing import Any, get_args

import jsonschema  # type: ignore[import-untyped]
import pytest

from runtime.database import Database
from schemas.connection_changes import EventType
from schemas.events import DATA_MODELS, DATA_VERSION, EVENT_MODELS
from service.resources import event_schemas
from tests.service.conftest import Api
from tests.support import row_factory
from tests.support.scripted_consumer import ScriptedConsumer, emit, make_dispatcher, subscribe

OFFICIAL = Path(__file__).with_name("asyncapi-3.0.0.json")
"""The official JSON schema of AsyncAPI documents (Apache-2.0), without white space."""

CHANGE = {"previous": {"status": "ACTIVE", "status_reason": None}}
MOVE = {"previous": "c1", "current": "c2", "duplicate_ids": ["c2"], "role": "lost_primary"}
CHANGES: dict[EventType, dict[str, Any]] = {
    "connection.status_changed": {},
    "connection.status_reason_changed": CHANGE,
    "connection.primary_duplicate_moved": MOVE,
}


def get_schema(api: Api, type_: str) -> Any:
    """Return a schema, requested without a token."""
    return api.anonymous.get(f"/schemas/{type_}/{DATA_VERSION}").json()


def validator(schema: Any) -> Any:
    """Return a validator that also checks formats."""
    kind = jsonschema.Draft202012Validator
    kind.check_schema(schema)
    return kind(schema, format_checker=kind.FORMAT_CHECKER)


def get_event(api: Api, type_: EventType) -> Any:
    """Return an event of a type from the feed."""
    row = row_factory.event(1, type=type_, data={**row_factory.event(1).data, **CHANGES[type_]})
    row_factory.store(api.database, row)
    return api.reader.get("/api/events").json()["events"][0]


@pytest.mark.parametrize("type_", get_args(EventType))
def test_an_event_matches_its_schema(api: Api, type_: EventType) -> None:
    """The schema is public, under the name and version of the event."""
    event = get_event(api, type_)
    *_urn, name, version = event["dataschema"].split(":")
    answer = api.anonymous.get(f"/schemas/{name}/{version}")

    validator(answer.json()).validate(event)

    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/schema+json")
    assert answer.json()["$id"] == f"urn:meldwatch:event:{type_}:{DATA_VERSION}"


@pytest.mark.parametrize("type_", get_args(EventType))
def test_invalid_events_do_not_match(api: Api, type_: EventType) -> None:
    """Another type, a missing field, an unknown field, an invalid value."""
    event = get_event(api, type_)
    wrong = [{**event, "type": other} for other in get_args(EventType) if other != type_]
    wrong += [{name: value for name, value in event.items() if name != gone} for gone in event]
    wrong += [{**event, "data": {**event["data"], "more": 1}}, {**event, "sequence": "7"}]
    wrong += [{**event, "data": {**event["data"], "current": None}}]

    checker = validator(get_schema(api, type_))

    assert [each for each in wrong if checker.is_valid(each)] == []


@pytest.mark.parametrize("path", ["connection.status_changed/2", "connection.none/1", "connection.status_changed/01"])
def test_an_unknown_schema_is_404(api: Api, path: str) -> None:
    """The error lists the known schemas."""
    answer = api.anonymous.get(f"/schemas/{path}")

    assert answer.status_code == 404
    assert all(f"{type_}/{DATA_VERSION}" in answer.json()["detail"] for type_ in get_args(EventType))


def test_every_type_has_its_model() -> None:
    """The models have the literal type and schema of their events, and their data."""
    declared = {
        type_: (
            get_args(shape.model_fields["type"].annotation),
            get_args(shape.model_fields["dataschema"].annotation),
            shape.model_fields["data"].annotation,
        )
        for type_, shape in EVENT_MODELS.items()
    }

    assert declared == {
        type_: ((type_,), (f"urn:meldwatch:schema:{type_}:{DATA_VERSION}",), DATA_MODELS[type_])
        for type_ in get_args(EventType)
    }


def test_the_asyncapi_document_is_valid(api: Api) -> None:
    """By the official schema of AsyncAPI 3."""
    document = api.anonymous.get("/asyncapi.json").json()

    jsonschema.Draft7Validator(json.loads(OFFICIAL.read_text())).validate(document)

    assert document == json.loads(json.dumps(event_schemas.asyncapi_document()))


def test_the_references_of_asyncapi_resolve() -> None:
    """The official schema does not follow references."""
    document = event_schemas.asyncapi_document()

    assert [reference for reference in references(document) if not resolves(document, reference)] == []


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [reference for value in node.values() for reference in references(value)]
    return [reference for value in node for reference in references(value)] if isinstance(node, list) else []


def resolves(document: Any, reference: str) -> bool:
    for name in reference.removeprefix("#/").split("/"):
        document = document.get(name, {})
    return bool(document)


def test_asyncapi_has_every_type_and_the_stream(api: Api) -> None:
    """Messages are the event types; address and parameters are those of the API."""
    document, described = event_schemas.asyncapi_document(), api.anonymous.get("/openapi.json").json()
    stream = described["paths"][document["channels"]["stream"]["address"]]["get"]
    parameters = {item["name"] for item in stream["parameters"] if item["in"] == "query"}

    assert {message["name"] for message in document["components"]["messages"].values()} == set(get_args(EventType))
    assert set(document["operations"]["streamEvents"]["bindings"]["http"]["query"]["properties"]) == parameters
    assert document["channels"]["stream"]["messages"].keys() == document["components"]["messages"].keys()


def test_asyncapi_describes_pushes(database: Database) -> None:
    """The address is open, since it is that of a subscription; the headers are those of a push."""
    subscribe(database)
    emit(database, "c1")
    consumer = ScriptedConsumer()
    make_dispatcher(database, consumer).deliver("s1")
    (pushed,) = consumer.pushes
    document = event_schemas.asyncapi_document()
    channel, operation = document["channels"]["push"], document["operations"]["pushEvent"]
    (message,) = [each for each in channel["messages"].values() if each["name"] == "connection.status_changed"]
    described = document["components"]["schemas"]["PushHeaders"]
    scheme = document["components"]["securitySchemes"]["signature"]

    assert (channel["address"], operation["action"], operation["bindings"]["http"]["method"]) == (None, "send", "POST")
    assert channel["messages"].keys() == document["channels"]["stream"]["messages"].keys()
    assert message["contentType"] == pushed.headers["Content-Type"]
    assert scheme["name"] in described["required"]
    assert set(described["required"]) == pushed.headers.keys() - {"Content-Type"}
    validator({**message["headers"], "components": document["components"]}).validate(dict(pushed.headers))
    validator({**message["payload"], "components": document["components"]}).validate(json.loads(pushed.body))


@pytest.mark.parametrize("type_", get_args(EventType))
def test_an_event_matches_the_payload_of_its_message(api: Api, type_: EventType) -> None:
    """The schema in the AsyncAPI document equals the public one."""
    event, document = get_event(api, type_), event_schemas.asyncapi_document()
    (message,) = [each for each in document["components"]["messages"].values() if each["name"] == type_]

    validator({**message["payload"], "components": document["components"]}).validate(event)
