"""Options of list commands: made from the pydantic models of the API's queries. Each filter is declared only there."""

import shlex
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import wraps
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, get_args, get_origin

import click
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from runtime.errors import UsageError
from schemas.api_queries import MAX_POSITION, Query

P = ParamSpec("P")
R = TypeVar("R")
Q = TypeVar("Q", bound=Query)

OPTION_NAMES = {"connection_id": "--connection"}
"""Options that are not named as their field."""

PAGING_FIELDS = frozenset({"after", "limit"})

json_option = click.option("--json", "as_json", is_flag=True, help="JSON Lines instead of a table.")
json_object_option = click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")


def query_options(model: type[Query], *, exclude: Iterable[str] = ()) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Give a command one option for each field of a query, and hand it the validated query as ``query``.

    Args:
        model: The query of the API's operation. Bounds, choices, defaults and descriptions come from its fields.
        exclude: Fields that make no sense for a command.
    """
    fields = {name: field for name, field in model.model_fields.items() if name not in set(exclude)}
    # Filters first, then what pages.
    fields = dict(sorted(fields.items(), key=lambda field: field[0] in PAGING_FIELDS))

    options = [make_option(name, field) for name, field in fields.items()]

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        @wraps(command)
        def with_query(**given: Any) -> R:  # noqa: ANN401 - the values of Click's options
            values = {name: given.pop(name) for name in fields}
            return command(query=make_query(model, values), **given)

        decorated: Callable[..., R] = with_query
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


def make_query(model: type[Q], values: Mapping[str, Any]) -> Q:
    """Validate options as a query of the API.

    Raises:
        UsageError: Naming the first option that is invalid.
    """
    try:
        return model.model_validate({name: value for name, value in values.items() if value is not None})
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        raise UsageError(f"{get_option_name(str(detail['loc'][0]))}: {detail['msg']}") from None


def get_option_name(field_name: str) -> str:
    """Return the option of a query's field."""
    return OPTION_NAMES.get(field_name, f"--{field_name.replace('_', '-')}")


def print_next_page_hint(cursor: str | None) -> None:
    """Print how to get the next page, where there is one."""
    if cursor is not None:
        click.echo(f"There are more: --after {shlex.quote(cursor)}", err=True)


def make_option(name: str, field: FieldInfo) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Return the option of a model's field: its name, type, choices, bounds, default and help come from the field."""
    has_default = field.default is not None
    return click.option(
        get_option_name(name),
        name,
        type=_get_parameter_type(field),
        default=field.default,
        show_default=has_default,
        metavar="TIME" if datetime in _flatten(field.annotation) else None,
        help=(field.description or "").replace("`", ""),
    )


def _get_parameter_type(field: FieldInfo) -> click.ParamType[Any]:
    """Return Click's type of a field. What is a text to Click is checked by the model."""
    for type_ in _flatten(field.annotation):
        if get_origin(type_) is Literal:
            return click.Choice(get_args(type_))
        if type_ is int:
            constraints = [*field.metadata, *_get_constraints(field.annotation)]
            bounds = {key: getattr(each, key) for each in constraints for key in ("ge", "le") if hasattr(each, key)}
            upper = bounds.get("le")
            return click.IntRange(bounds.get("ge"), None if upper == MAX_POSITION else upper)
    return click.STRING


def _get_constraints(annotation: Any) -> list[Any]:  # noqa: ANN401 - an annotation may be anything
    """Return the constraints that ``Annotated`` adds within a union."""
    if get_origin(annotation) is Annotated:
        added = get_args(annotation)[1:]
        return [each for one in added for each in (one.metadata if isinstance(one, FieldInfo) else (one,))]
    return [each for argument in get_args(annotation) for each in _get_constraints(argument)]


def _flatten(annotation: Any) -> list[Any]:  # noqa: ANN401 - an annotation may be anything
    """Return the members of a union, without what ``Annotated`` adds."""
    if get_origin(annotation) is Annotated:
        return _flatten(get_args(annotation)[0])
    if get_origin(annotation) is Literal or not get_args(annotation):
        return [annotation]
    return [each for argument in get_args(annotation) for each in _flatten(argument)]
