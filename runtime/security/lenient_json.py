"""JSON from outside, read so that nothing in it can hurt: not its numbers, its depth, nor its strange characters."""

import json
import math
from typing import Any

MAX_NUMBER_DIGITS = 40
"""Digits of a number that are kept; PostgreSQL and JSON clients cope with these, and no amount of money needs more."""

_NOT_TEXT = {"\x00": "\ufffd"} | {chr(code): "\ufffd" for code in range(0xD800, 0xE000)}
_TABLE = str.maketrans(_NOT_TEXT)


class ParseError(ValueError):
    """The bytes are not JSON; the message says what is wrong with them."""


def _integer(digits: str) -> int | None:
    return int(digits) if len(digits) <= MAX_NUMBER_DIGITS else None


def _number(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def _constant(_name: str) -> None:
    return None


# Made once: json.loads makes a new one each time that it is told how to read numbers.
_DECODER = json.JSONDecoder(parse_int=_integer, parse_float=_number, parse_constant=_constant)


def clean_text(text: str) -> str:
    """Return ``text`` with what no database takes (NUL, lone surrogates) replaced by U+FFFD."""
    return text if text.isascii() and "\x00" not in text else text.translate(_TABLE)


def parse_json(body: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Read JSON leniently: numbers that are not finite or too long become None, bad UTF-8 becomes U+FFFD.

    Strings are returned as they are; pass the ones that are kept through ``clean_text``.

    Raises:
        ParseError: Where the bytes are no JSON at all, or are nested deeper than the interpreter can follow.
    """
    text = body.decode("utf-8", errors="replace").removeprefix("\ufeff")
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ParseError("nested too deep") from None
    except ValueError:
        raise ParseError("not JSON") from None
