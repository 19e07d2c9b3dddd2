"""GET /schemas/{type}/{version}, GET /asyncapi.json: the JSON Schema of each event type, and the AsyncAPI document."""

import json
from functools import cache
from typing import Any, Literal

from anyio import to_thread
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
    """Return the JSON Schema of an event type: of the whole event with its CloudEvents envelope."""
    schema = EVENT_MODELS[type_].model_json_schema(mode="serialization")
    return {"$schema": DIALECT, "$id": f"urn:meldwatch:event:{type_}:{DATA_VERSION}", **schema}


def asyncapi_document() -> Json:
    """Return the AsyncAPI document of the stream and the pushes."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "meldwatch",
            "version": openapi.API_VERSION,
            "description": "The changes of Meld bank connections, each once and in order.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": EVENT_TYPE,
        "channels": {"stream": _stream_channel(), "push": _push_channel()},
        "operations": {"streamEvents": _stream_operation(), "pushEvent": _push_operation()},
        "components": {
            "messages": {model.__name__: _message(type_, model) for type_, model in EVENT_MODELS.items()},
            "schemas": _schemas(),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}, "signature": _signature_scheme()},
        },
    }


def _stream_channel() -> Json:
    return {
        "address": "/api/events/stream",
        "title": "The feed as server-sent events",
        "description": "Each event's `data` is a message, its `id` the position. Resume with `Last-Event-ID`.",
        "messages": {model.__name__: {"$ref": MESSAGES + model.__name__} for model in EVENT_MODELS.values()},
    }


def _stream_operation() -> Json:
    query = StreamQuery.model_json_schema()
    return {
        "action": "send",
        "channel": {"$ref": "#/channels/stream"},
        "summary": "The events behind a position, then each new event when it is committed.",
        "security": [{"$ref": "#/components/securitySchemes/bearer"}],
        "bindings": {"http": {"method": "GET", "query": query, "bindingVersion": "0.3.0"}},
    }


def _push_channel() -> Json:
    headers = {"headers": {"$ref": openapi.SCHEMAS + PushHeaders.__name__}}
    return {
        "address": None,  # each subscription has its own
        "title": "The URL of a subscription",
        "description": "One event is the body of one request: CloudEvents in structured mode.",
        "messages": {model.__name__: {**_message(type_, model), **headers} for type_, model in EVENT_MODELS.items()},
    }


def _push_operation() -> Json:
    return {
        "action": "send",
        "channel": {"$ref": "#/channels/push"},
        "summary": "The events of a subscription; those of a connection in order, one at a time.",
        "description": "Any 2xx acknowledges the event. 410 disables the subscription. After any other result the event"
        " is retried with increasing delays for three days. An event may arrive twice: compare `webhook-id`.",
        "security": [{"$ref": "#/components/securitySchemes/signature"}],
        "bindings": {"http": {"method": "POST", "bindingVersion": "0.3.0"}},
    }


def _signature_scheme() -> Json:
    return {
        "type": "httpApiKey",
        "in": "header",
        "name": PushHeaders.model_fields["signature"].alias,
        "description": "Standard Webhooks: `v1,` and the HMAC-SHA256, in base64, of"
        " `<webhook-id>.<webhook-timestamp>.<body>` with the subscription's secret (base64 behind `whsec_`).",
    }


def _message(type_: EventType, model: type[BaseModel]) -> Json:
    return {
        "name": type_,
        "title": model.__name__,
        "summary": model.__doc__,
        "contentType": EVENT_TYPE,
        "payload": {"$ref": openapi.SCHEMAS + model.__name__},
    }


def _schemas() -> Json:
    models: list[tuple[type[BaseModel], Literal["serialization"]]] = [
        (model, "serialization") for model in (*EVENT_MODELS.values(), PushHeaders)
    ]
    schemas: Json = models_json_schema(models, ref_template=openapi.SCHEMAS + "{model}")[1]["$defs"]
    return schemas


@cache
def _schema_response_body(type_: EventType) -> bytes:
    return json.dumps(event_json_schema(type_)).encode()


@cache
def _asyncapi_response_body() -> bytes:
    return json.dumps(asyncapi_document()).encode()


def operations() -> tuple[Operation, ...]:
    """Return the API operations of event schemas. They are public, because they contain no data."""

    async def get_schema(request: Request, _query: object) -> Response:
        type_, version = request.path_params["type"], request.path_params["version"]
        if type_ not in EVENT_MODELS or version != str(DATA_VERSION):
            known = ", ".join(f"{each}/{DATA_VERSION}" for each in EVENT_MODELS)
            raise NotFoundError(f"There is no such schema. The schemas are: {known}.")
        return make_response(await to_thread.run_sync(_schema_response_body, type_), media_type=SCHEMA_TYPE)

    async def get_document(_request: Request, _query: object) -> Response:
        return make_response(await to_thread.run_sync(_asyncapi_response_body))

    return (
        Operation(
            method="GET",
            path="/schemas/{type}/{version}",
            operation_id="getSchema",
            summary="Get the JSON Schema of an event type.",
            access="public",
            responses=(ResponseSpec(description="JSON Schema 2020-12.", media_type=SCHEMA_TYPE),),
            handler=get_schema,
        ),
        Operation(
            method="GET",
            path="/asyncapi.json",
            operation_id="getEventDescription",
            summary="Get the AsyncAPI document of the events.",
            access="public",
            responses=(ResponseSpec(description="AsyncAPI 3.0."),),
            handler=get_document,
        ),
    )
