"""What every push in the tests must pass: two verifiers, the SDK of CloudEvents, and the schema that we publish."""

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


def accept(headers: Mapping[str, str], body: bytes, secrets: Collection[str]) -> None:
    """Take a push as a consumer would that knows one of these secrets; fail the test where anybody refuses it.

    What fails a test is no ``Exception``: the code that pushes, which takes those for the consumer's, lets it through.
    """
    with _failing(headers, body):
        sent = {name.lower(): value for name, value in headers.items()}
        for verifier in (standardwebhooks.Webhook, svix.Webhook):
            assert any(_verifies(verifier(secret), body, sent) for secret in secrets), verifier
    accept_unsigned(headers, body)


def accept_unsigned(headers: Mapping[str, str], body: bytes) -> None:
    """Take what a handler in Python is called with: nobody signs it, otherwise it is the same."""
    with _failing(headers, body):
        _parse({name.lower(): value for name, value in headers.items()}, body)


@contextmanager
def _failing(headers: Mapping[str, str], body: bytes) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is, it is a refusal
        pytest.fail(f"a push was refused: {error!r}; {dict(headers)}; {body!r}")


def _parse(headers: dict[str, str], body: bytes) -> None:
    event = from_structured_event(HTTPMessage(headers=headers, body=body))
    assert headers["content-type"] == "application/cloudevents+json"
    assert headers["webhook-id"] == event.get_id()
    _validator(event.get_type()).validate(json.loads(body))


def _verifies(webhook: Any, body: bytes, headers: dict[str, str]) -> bool:
    try:
        webhook.verify(body, headers)
    except standardwebhooks.WebhookVerificationError:  # Svix's is the same
        return False
    return True


@cache
def _validator(type_: str) -> Any:
    (known,) = (known for known in EVENT_MODELS if known == type_)
    return _KIND(event_schemas.schema(known), format_checker=_KIND.FORMAT_CHECKER)
