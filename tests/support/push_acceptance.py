"""Checks for every push in the tests: two signature verifiers, the CloudEvents SDK, and the published JSON Schema."""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import standardwebhooks
import svix
from cloudevents.core.bindings.http import HTTPMessage, from_structured_event

from schemas.events import EVENT_MODELS
from service.resources import event_schemas

_KIND = jsonschema.Draft202012Validator


def assert_acceptable(headers: Mapping[str, str], body: bytes, secrets: Collection[str]) -> None:
    """Check a push as a consumer with one of these secrets; fail the test if any check refuses it.

    pytest's failure is not an ``Exception``: the code that pushes, which handles exceptions, does not catch it.
    """
    with _failing(headers, body):
        sent = {name.lower(): value for name, value in headers.items()}
        for verifier in (standardwebhooks.Webhook, svix.Webhook):
            assert any(_verifies(verifier(secret), body, sent) for secret in secrets), verifier
    assert_acceptable_unsigned(headers, body)


def assert_acceptable_unsigned(headers: Mapping[str, str], body: bytes) -> None:
    """Check the event that a Python handler is called with, which is the same without a signature."""
    with _failing(headers, body):
        _parse({name.lower(): value for name, value in headers.items()}, body)


@contextmanager
def _failing(headers: Mapping[str, str], body: bytes) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - any exception is a refusal
        pytest.fail(f"a push was refused: {error!r}; {dict(headers)}; {body!r}")


def _parse(headers: dict[str, str], body: bytes) -> None:
    event = from_structured_event(HTTPMessage(headers=headers, body=body))
    assert headers["content-type"] == "application/cloudevents+json"
    assert headers["webhook-id"] == event.get_id()
    _validator(event.get_type()).validate(json.loads(body))


def _verifies(webhook: Any, body: bytes, headers: dict[str, str]) -> bool:
    try:
        webhook.verify(body, headers)
    except standardwebhooks.WebhookVerificationError:  # Svix raises the same class
        return False
    return True


@cache
def _validator(type_: str) -> Any:
    (known,) = (known for known in EVENT_MODELS if known == type_)
    return _KIND(event_schemas.event_json_schema(known), format_checker=_KIND.FORMAT_CHECKER)
