"""Kit: what a consumer's tools want to know of the events: the JSON Schema of each type, and an AsyncAPI document."""

import json
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from schemas.api_queries import StreamQuery
from schemas.connection_changes import EventType
from schemas.events import DATA_VERSION, EVENT_MODELS
from schemas.push import PushHeaders
from service.errors import NotFoundError
from service.http import openapi
from service.http.operation import Operation, ResponseSpec
from service.http.responses import make_response

Json = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SCHEMA_TYPE = "application/schema+json"
EVENT_TYPE = "application/cloudevents+json"
MESSAGES = "#/components/messages/"


def event_json_schema(type_: EventType) -> Json:
    """Return the JSON Schema of events of a type: of the whole event, its envelope included."""
    said = EVENT_MODELS[type_].model_json_schema(mode="serialization")
    return {"$schema": DIALECT, "$id": f"urn:meldwatch:event:{type_}:{DATA_VERSION}", **said}


def asyncapi_document() -> Json:
    """Return the AsyncAPI document of all that is sent."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "meldwatch",
            "version": openapi.API_VERSION,
            "description": "What changed of Meld bank connections, each change once and in order.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": EVENT_TYPE,
        "channels": {"stream": _stream(), "push": _push()},
        "operations": {"streamEvents": _streaming(), "pushEvent": _pushing()},
        "components": {
            "messages": {shape.__name__: _message(type_, shape) for type_, shape in EVENT_MODELS.items()},
            "schemas": _schemas(),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}, "signature": _signature()},
        },
    }


def _stream() -> Json:
    return {
        "address": "/api/events/stream",
        "title": "The feed as server-sent events",
        "description": "Each event's `data` is a message, its `id` the position. Resume with `Last-Event-ID`.",
        "messages": {shape.__name__: {"$ref": MESSAGES + shape.__name__} for shape in EVENT_MODELS.values()},
    }


def _streaming() -> Json:
    query = StreamQuery.model_json_schema()
    return {
        "action": "send",
        "channel": {"$ref": "#/channels/stream"},
        "summary": "The events behind a position, and then each when it is committed.",
        "security": [{"$ref": "#/components/securitySchemes/bearer"}],
        "bindings": {"http": {"method": "GET", "query": query, "bindingVersion": "0.3.0"}},
    }


def _push() -> Json:
    headers = {"headers": {"$ref": openapi.SCHEMAS + PushHeaders.__name__}}
    return {
        "address": None,  # it is the subscription's
        "title": "The URL of a subscription",
        "description": "One event is the body of one request, CloudEvents in structured mode.",
        "messages": {shape.__name__: {**_message(type_, shape), **headers} for type_, shape in EVENT_MODELS.items()},
    }


def _pushing() -> Json:
    return {
        "action": "send",
        "channel": {"$ref": "#/channels/push"},
        "summary": "The events that a subscription wants, those of a connection in order and one at a time.",
        "description": "Any 2xx takes the event. 410 disables the subscription; after all else the same event comes"
        " again, later and later, for three days. One may come twice: `webhook-id` tells.",
        "security": [{"$ref": "#/components/securitySchemes/signature"}],
        "bindings": {"http": {"method": "POST", "bindingVersion": "0.3.0"}},
    }


def _signature() -> Json:
    return {
        "type": "httpApiKey",
        "in": "header",
        "name": PushHeaders.model_fields["signature"].alias,
        "description": "Standard Webhooks: `v1,` and the HMAC-SHA256, in base64, of"
        " `<webhook-id>.<webhook-timestamp>.<body>` with the subscription's secret, which is base64 behind `whsec_`.",
    }


def _message(type_: EventType, shape: type[BaseModel]) -> Json:
    return {
        "name": type_,
        "title": shape.__name__,
        "summary": shape.__doc__,
        "contentType": EVENT_TYPE,
        "payload": {"$ref": openapi.SCHEMAS + shape.__name__},
    }


def _schemas() -> Json:
    shapes: list[tuple[type[BaseModel], Literal["serialization"]]] = [
        (shape, "serialization") for shape in (*EVENT_MODELS.values(), PushHeaders)
    ]
    schemas: Json = models_json_schema(shapes, ref_template=openapi.SCHEMAS + "{model}")[1]["$defs"]
    return schemas


def operations() -> tuple[Operation, ...]:
    """Return what can be asked of the API: anybody may, since no connection is in it."""
    schemas = {(type_, str(DATA_VERSION)): json.dumps(event_json_schema(type_)).encode() for type_ in EVENT_MODELS}
    document = json.dumps(asyncapi_document()).encode()

    async def show_schema(request: Request, _query: object) -> Response:
        known = schemas.get((request.path_params["type"], request.path_params["version"]))
        if known is None:
            raise NotFoundError(f"There is no such schema. There are: {', '.join(map('/'.join, schemas))}.")
        return make_response(known, media_type=SCHEMA_TYPE)

    async def show_document(_request: Request, _query: object) -> Response:
        return make_response(document)

    return (
        Operation(
            method="GET",
            path="/schemas/{type}/{version}",
            operation_id="getSchema",
            summary="The JSON Schema of the events of a type.",
            access="public",
            responses=(ResponseSpec(description="JSON Schema 2020-12.", media_type=SCHEMA_TYPE),),
            handler=show_schema,
        ),
        Operation(
            method="GET",
            path="/asyncapi.json",
            operation_id="getEventDescription",
            summary="The events that are sent, and where.",
            access="public",
            responses=(ResponseSpec(description="AsyncAPI 3.0."),),
            handler=show_document,
        ),
    )
