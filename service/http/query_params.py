"""Query parameters: strict parsing and validation of a request's query string into a model."""

from typing import TypeVar

from pydantic import ValidationError
from starlette.datastructures import QueryParams

from schemas.api_queries import Query
from service.errors import InvalidQueryError
from service.http.validation_errors import MAX_NAME_CHARACTERS, describe_errors

Q = TypeVar("Q", bound=Query)


def parse_query(parameters: QueryParams, model: type[Q]) -> Q:
    """Return the query as a model.

    Raises:
        InvalidQueryError: A parameter is unknown, repeated or out of range; the message names it.
    """
    pairs = parameters.multi_items()
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _value in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise InvalidQueryError(f"{repeated[:MAX_NAME_CHARACTERS]!r} is given more than once. Give it once.")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InvalidQueryError(describe_errors(error, model, "parameter")) from None
