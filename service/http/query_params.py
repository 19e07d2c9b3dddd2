"""Query: a request's parameters, read strictly into the shape of what may be asked."""

from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.datastructures import QueryParams

from schemas.api_queries import Query
from service.errors import QueryError

Q = TypeVar("Q", bound=Query)

MOST_ERRORS = 5
LONGEST_NAME = 50


def read_query(parameters: QueryParams, shape: type[Q]) -> Q:
    """Return the query.

    Raises:
        QueryError: Naming each parameter that is unknown, given twice or out of bounds, and those that are known.
    """
    pairs = parameters.multi_items()
    given = dict(pairs)
    if len(given) < len(pairs):
        names = [name for name, _value in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise QueryError(f"{twice[:LONGEST_NAME]!r} is given more than once. Give it once.")
    try:
        return shape.model_validate(given)
    except ValidationError as error:
        raise QueryError(" ".join(_explain(error, shape))) from None


def _explain(error: ValidationError, shape: type[Query]) -> list[str]:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return [_sentence(detail, shape) for detail in details[:MOST_ERRORS]]


def _sentence(detail: ErrorDetails, shape: type[Query]) -> str:
    name = str(detail["loc"][0])[:LONGEST_NAME] if detail["loc"] else ""
    if detail["type"] == "extra_forbidden":
        known = ", ".join(shape.model_fields)
        return f"{name!r} is no parameter here. " + (f"There are: {known}." if known else "There are none.")
    return f"{name!r}: {detail['msg'].removeprefix('Value error, ')}."
