"""Lenient JSON parser for untrusted input: safe against huge numbers, deep nesting and unstorable characters."""

import json
import math
from typing import Any

MAX_NUMBER_DIGITS = 40
"""A longer integer becomes null. PostgreSQL and JSON clients can handle these, and no amount of money is longer."""

_REPLACEMENTS = {"\x00": "\ufffd"} | {chr(code): "\ufffd" for code in range(0xD800, 0xE000)}
_CLEAN_TABLE = str.maketrans(_REPLACEMENTS)


class ParseError(ValueError):
    """The bytes are not JSON; the message says what is wrong with them."""


def _parse_integer(digits: str) -> int | None:
    return int(digits) if len(digits) <= MAX_NUMBER_DIGITS else None


def _parse_number(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _parse_constant(_name: str) -> None:
    return None


# Created once: with number hooks, json.loads creates a decoder for each call.
_DECODER = json.JSONDecoder(parse_int=_parse_integer, parse_float=_parse_number, parse_constant=_parse_constant)


def clean_text(text: str) -> str:
    """Replace characters that no database stores (NUL, lone surrogates) by U+FFFD."""
    return text if text.isascii() and "\x00" not in text else text.translate(_CLEAN_TABLE)


def parse_json(body: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Parse JSON leniently: numbers that are not finite or too long become None, invalid UTF-8 becomes U+FFFD.

    Strings are returned unchanged; use ``clean_text`` before storing one.

    Raises:
        ParseError: If the bytes are not JSON, or are nested deeper than the recursion limit.
    """
    text = body.decode("utf-8", errors="replace").removeprefix("\ufeff")
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ParseError("nested too deep") from None
    except ValueError:
        raise ParseError("not JSON") from None
