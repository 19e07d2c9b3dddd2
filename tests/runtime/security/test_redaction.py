import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.security.lenient_json import clean_text
from runtime.security.redaction import is_secret_name, redact

KEPT = [
    "itemId",
    "latestCursor",
    "serviceProvider",
    "institutionId",
    "requestId",
    "linkSessionId",
    "id",
    "customerId",
    "accountId",
    "status",
    "statusReason",
    "activeDuplicateConnectionId",
    "duplicateConnectionIds",
    "products",
    "successfullyAggregatedAt",
    "key",
]
SECRET = [
    "accessToken",
    "access_token",
    "ACCESS-TOKEN",
    "processorToken",
    "clientSecret",
    "secret",
    "userPassword",
    "apiKey",
    "X-Api-Key",
    "privateKey",
    "Authorization",
    "Set-Cookie",
    "meld-signature",
    "credentials",
    "pin",
    "jwt",
]
WORD = "hunter2hunter2"
texts = st.text(st.characters(codec=None, categories=None), max_size=8)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
)
# What surrounds a credential, from the inside out: a list, or an object's field.
paths = st.lists(st.none() | st.sampled_from(KEPT), max_size=12)


def wrapped(core: Any, path: list[str | None]) -> Any:
    for name in path:
        core = [core, "beside"] if name is None else {name: core, "beside": 1}
    return core


@pytest.mark.parametrize("name", SECRET)
def test_secret_field_names_are_recognized(name: str) -> None:
    """A field whose name marks a credential is recognized in any spelling."""
    assert is_secret_name(name)


@pytest.mark.parametrize("name", KEPT)
def test_other_field_names_are_not_secret(name: str) -> None:
    """The fields that the mirror needs are not treated as credentials."""
    assert not is_secret_name(name)


@given(paths, st.sampled_from(SECRET))
def test_a_secret_is_removed_at_any_depth(path: list[str | None], name: str) -> None:
    """A credential is removed with its field, wherever it is, and the fields beside it stay."""
    document = wrapped({name: WORD, "itemId": "kept"}, path)

    assert redact(document) == wrapped({"itemId": "kept"}, path)


@given(paths, st.sampled_from(SECRET), documents)
def test_a_secret_is_removed_with_its_content(path: list[str | None], name: str, inside: Any) -> None:
    """A credential that is an object or a list is removed as a whole."""
    assert WORD not in json.dumps(redact(wrapped({name: [inside, {"a": WORD}]}, path)))


@pytest.mark.parametrize(
    "value",
    [
        "access-sandbox-3f2c",
        "access-production-3f2c",
        "processor-sandbox-0asd1",
        "Bearer abc.def-ghi_123",
        "BASIC YWxhZGRpbjpvcGVuc2VzYW1l",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-123_",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.",
    ],
)
def test_a_secret_value_is_removed_under_any_name(value: str) -> None:
    """A value in the form of a credential is removed under any name, and from lists."""
    assert redact({"reference": value, "list": ["a", value], "b": 1}) == {"list": ["a"], "b": 1}


@pytest.mark.parametrize(
    "value",
    ["Basic Bank", "Bearer Savings", "public-production", "access to production", "basic", "eyJ", "ACTIVE", "item-1"],
)
def test_ordinary_words_stay(value: str) -> None:
    """Text that only begins like a credential, such as the name of a bank, stays."""
    assert redact({"institutionName": value}) == {"institutionName": value}


def test_needed_fields_stay() -> None:
    """All fields that the mirror and its readers need are unchanged."""
    document = {name: [name] for name in KEPT}

    assert redact(document) == document


@given(documents)
def test_redaction_is_idempotent(document: Any) -> None:
    """A document without credentials is unchanged."""
    once = redact(document)

    assert redact(once) == once


@given(documents)
def test_the_result_can_be_stored(document: Any) -> None:
    """Names and texts of the result can be stored in every database."""
    text = json.dumps(redact(document), ensure_ascii=False)

    assert clean_text(text) == text
    assert "\\u0000" not in json.dumps(redact(document))


def test_the_original_is_unchanged() -> None:
    """The function returns a copy; its argument keeps the credential."""
    document = {"details": {"accessToken": WORD}}

    redact(document)

    assert document == {"details": {"accessToken": WORD}}


@pytest.mark.parametrize(
    "details",
    [
        {"accessTokens": ["KEY-123456"]},
        {"tokens": {"a": "KEY-123456"}},
        {"raw": '{"accessToken": "KEY-123456", "itemId": "i"}'},
        {"raw": '[{"nested": "{\\"password\\": \\"KEY-123456\\"}"}]'},
        {"url": "https://example.com/cb?access_token=KEY-123456&x=1"},
        {"url": "https://user:KEY-123456@example.com/"},
        {"note": "sent with Bearer KEY-123456 just now"},
        {"otp": "KEY-123456"},
        {"passcode": "KEY-123456"},
        {"basicAuth": "KEY-123456"},
        {"auth": {"code": "KEY-123456"}},
        {"oauth": {"code": "KEY-123456"}},
        {"securityAnswer": "KEY-123456"},
        {"certificate": "KEY-123456"},
    ],
    ids=lambda details: next(iter(details)),
)
def test_a_wrapped_credential_is_removed(details: dict[str, object]) -> None:
    """Plurals, groups, JSON in a text, URLs and sentences: forms in which providers may wrap a credential."""
    assert "KEY-123456" not in json.dumps(redact({"serviceProviderDetails": details}))


def test_similar_text_stays() -> None:
    """Text that resembles a credential is unchanged: JSON without secrets, URLs with a harmless query, sentences."""
    details = {"raw": '{"itemId":  "i"}', "url": "https://example.com/?page=2", "note": "Basic Bank, bearer of news"}

    assert redact(details) == details
