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
def test_secrets_are_known_by_their_names(name: str) -> None:
    """A field whose name says that it holds a credential is known for one, however it is written."""
    assert is_secret_name(name)


@pytest.mark.parametrize("name", KEPT)
def test_what_is_no_secret_is_known(name: str) -> None:
    """The fields that the mirror is made for are no secrets."""
    assert not is_secret_name(name)


@given(paths, st.sampled_from(SECRET))
def test_a_secret_is_gone_at_any_depth(path: list[str | None], name: str) -> None:
    """A credential is removed with its name, wherever it stands, and what is beside it stays."""
    document = wrapped({name: WORD, "itemId": "kept"}, path)

    assert redact(document) == wrapped({"itemId": "kept"}, path)


@given(paths, st.sampled_from(SECRET), documents)
def test_a_secret_is_gone_with_all_that_it_holds(path: list[str | None], name: str, inside: Any) -> None:
    """A credential that is an object or a list goes as a whole."""
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
def test_a_secret_under_an_innocent_name_is_gone(value: str) -> None:
    """A value in the form of a credential is removed under any name, and from lists."""
    assert redact({"reference": value, "list": ["a", value], "b": 1}) == {"list": ["a"], "b": 1}


@pytest.mark.parametrize(
    "value",
    ["Basic Bank", "Bearer Savings", "public-production", "access to production", "basic", "eyJ", "ACTIVE", "item-1"],
)
def test_ordinary_words_stay(value: str) -> None:
    """What only begins like a credential, such as a bank's name, stays."""
    assert redact({"institutionName": value}) == {"institutionName": value}


def test_what_must_stay_stays() -> None:
    """All fields that the mirror and its readers need come through unchanged."""
    document = {name: [name] for name in KEPT}

    assert redact(document) == document


@given(documents)
def test_redacting_twice_is_redacting_once(document: Any) -> None:
    """A document without credentials is left as it is."""
    once = redact(document)

    assert redact(once) == once


@given(documents)
def test_what_is_left_can_be_stored(document: Any) -> None:
    """Names and texts of what is left fit into every database."""
    text = json.dumps(redact(document), ensure_ascii=False)

    assert clean_text(text) == text
    assert "\\u0000" not in json.dumps(redact(document))


def test_the_original_is_left_alone() -> None:
    """A copy is returned; what was given keeps its credential."""
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
def test_a_credential_in_other_clothes_is_gone(details: dict[str, object]) -> None:
    """Plurals, groups, JSON in a text, URLs and sentences: what a provider may wrap a credential in."""
    assert "KEY-123456" not in json.dumps(redact({"serviceProviderDetails": details}))


def test_what_is_no_credential_stays_as_it_is() -> None:
    """Texts that look a little like one: JSON without secrets to the letter, URLs with an honest query, sentences."""
    details = {"raw": '{"itemId":  "i"}', "url": "https://example.com/?page=2", "note": "Basic Bank, bearer of news"}

    assert redact(details) == details
