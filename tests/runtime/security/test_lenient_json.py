import json
import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.security.lenient_json import MAX_NUMBER_DIGITS, ParseError, clean_text, parse_json

numbers = st.integers(-(10 ** (MAX_NUMBER_DIGITS - 1)) + 1, 10**MAX_NUMBER_DIGITS - 1) | st.floats(
    allow_nan=False, allow_infinity=False
)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)
# Every code point there is, halves of pairs among them.
any_text = st.text(st.characters(codec=None, categories=None) | st.characters(categories=["Cs"]) | st.just("\x00"))


@given(values)
def test_valid_json_is_parsed_exactly(value: Any) -> None:
    """Every JSON value survives serialization and parsing."""
    assert parse_json(json.dumps(value).encode()) == value


@given(st.binary())
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    """Any bytes are parsed, or raise the error for invalid JSON."""
    with suppress(ParseError):
        parse_json(body)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5_000, "-" + "9" * 5_000])
def test_numbers_that_cannot_be_stored_become_none(number: str) -> None:
    """Numbers that no database and no client can handle become None, without an error and at once."""
    assert parse_json(f'{{"a": {number}, "b": 1}}'.encode()) == {"a": None, "b": 1}


def test_large_numbers_stay_exact() -> None:
    """An integer beyond 64 bits is not rounded."""
    assert parse_json(b"[18446744073709551617, 1e308]") == [18446744073709551617, 1e308]


@pytest.mark.parametrize("body", [b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000])
def test_deep_nesting_is_an_error(body: bytes) -> None:
    """A hundred thousand brackets raise the error that callers expect."""
    with pytest.raises(ParseError):
        parse_json(body)


@pytest.mark.parametrize("body", [b"", b" ", b"{", b"[1,]", b"{'a': 1}", b"<html>", b"1 2", b"\xff\xfe[\x001\x00]\x00"])
def test_invalid_json_is_an_error(body: bytes) -> None:
    """Bytes that are not JSON raise the error that callers expect."""
    with pytest.raises(ParseError, match="not JSON"):
        parse_json(body)


def test_a_byte_order_mark_is_ignored() -> None:
    """JSON after a byte order mark is parsed."""
    assert parse_json(b"\xef\xbb\xbf[1]") == [1]


def test_invalid_utf8_is_replaced() -> None:
    """A text with invalid UTF-8 is kept, with a replacement character in its place."""
    assert parse_json(b'["a\xffb"]') == ["a\ufffdb"]


def test_the_last_of_two_equal_names_counts() -> None:
    """A repeated name has its last value."""
    assert parse_json(b'{"a": 1, "a": 2}') == {"a": 2}


@given(any_text)
def test_clean_text_can_be_stored(text: str) -> None:
    """Cleaned text has no NUL, can be encoded, and has the same length."""
    cleaned = clean_text(text)

    assert "\x00" not in cleaned
    assert len(cleaned.encode().decode()) == len(text)


@given(any_text)
def test_cleaning_is_idempotent(text: str) -> None:
    """Text that can be stored is unchanged."""
    cleaned = clean_text(text)

    assert clean_text(cleaned) == cleaned
    if not any(character == "\x00" or "\ud800" <= character <= "\udfff" for character in text):
        assert cleaned == text


def test_a_surrogate_pair_is_one_character() -> None:
    """A character that JSON writes as a surrogate pair is not replaced."""
    assert clean_text(parse_json(rb'"\ud83d\ude00 \ud83d"')) == "\U0001f600 \ufffd"


@given(st.text("0123456789", min_size=1, max_size=400).map(lambda digits: "1" + digits))
def test_long_fractions_are_numbers(digits: str) -> None:
    """A fraction of any length is a finite number."""
    number = parse_json(f"[0.{digits}]".encode())[0]

    assert math.isfinite(number)
