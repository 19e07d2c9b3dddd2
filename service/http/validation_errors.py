"""Texts of validation errors: pydantic's errors as sentences that name the query parameter or body field."""

from typing import Literal

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

MAX_ERRORS = 5
"""Errors that one response lists."""

MAX_NAME_CHARACTERS = 50
"""Characters of a name from the request that an error text repeats."""


def describe_errors(error: ValidationError, model: type[BaseModel], noun: Literal["parameter", "field"]) -> str:
    """Return one sentence for each of the first ``MAX_ERRORS`` errors, without any value from the request.

    Args:
        error: The validation error.
        model: The model that the input does not match.
        noun: What the model's fields are to the caller.
    """
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return " ".join(_sentence(detail, model, noun) for detail in details[:MAX_ERRORS])


def _sentence(detail: ErrorDetails, model: type[BaseModel], noun: str) -> str:
    message = detail["msg"].removeprefix("Value error, ")
    if not detail["loc"]:
        # A validator that compares several fields raises a whole sentence.
        is_sentence = detail["type"] == "value_error"
        return message if is_sentence else f"The body is not a JSON object: {message.removeprefix('Invalid JSON: ')}."
    name = ".".join(str(part) for part in detail["loc"])[:MAX_NAME_CHARACTERS]
    if detail["type"] == "extra_forbidden":
        known = ", ".join(model.model_fields)
        return f"{name!r} is an unknown {noun}. " + (f"Known: {known}." if known else f"This route has no {noun}s.")
    return f"{name!r}: {message}."
