"""API reference in Markdown: renders an OpenAPI document as routes, parameters with bounds, answers, errors, shapes."""

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]

INTRODUCTION = """\
# API reference

Generated from the OpenAPI document of the application (`/openapi.json`) by `python -m docs.generate`; do not edit.

- **Tokens.** Send `Authorization: Bearer <token>`. An admin token may do everything that a read token may. Without any
  token in the [settings](settings.md) every route that needs one answers 401.
- **Pagination.** A list takes `limit` and `after`. `after` is the cursor `next` of the previous page; `next` is null on
  the last page (in the feed of events it is the position to continue with).
- **Errors** are `application/problem+json` (problem details, RFC 9457) and say what to do. 422: a parameter or the
  request body is outside its bounds. 503: the database is out of reach; repeat the request later.
- **Times** are ISO 8601 with a time zone. Unknown query parameters and unknown fields of a request body are refused
  with 422.
- [Events](events.md) describes events, pushes and the event stream.
"""

BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
    "pattern": "matches `{}`",
    "default": "default `{}`",
}
LARGEST_INTEGER = 2**63 - 1
"""Of a column in the database; as a bound it says nothing to a caller."""


def render(document: Json) -> str:
    """Return the reference of all routes and shapes of an OpenAPI document."""
    operations = [
        (f"{method.upper()} {path}", operation)
        for path, methods in sorted(document["paths"].items())
        for method, operation in methods.items()
    ]
    table = [_row([f"[`{route}`](#{_slug(route)})", _token(each), each["summary"]]) for route, each in operations]
    shapes = sorted(document["components"]["schemas"].items())
    return "\n".join(
        [
            INTRODUCTION,
            *_table(["route", "token", "what it does"], table),
            *(line for route, each in operations for line in _operation(route, each, document)),
            "## Shapes",
            "",
            *(line for name, shape in shapes for line in _shape(name, shape)),
        ]
    )


def _operation(route: str, operation: Json, document: Json) -> Iterator[str]:
    yield from (f"## `{route}`", "", operation["summary"], operation["description"], "")
    if operation["parameters"]:
        rows = [
            _row([f"`{each['name']}`", each["in"], *_value(each["schema"], each)]) for each in operation["parameters"]
        ]
        yield from _table(["parameter", "in", "type and bounds", "meaning"], rows)
    if body := operation.get("requestBody"):
        schema = next(iter(body["content"].values()))["schema"]
        yield from (f"Request body: {_type(schema)}. {body['description']}", "")
    answers, errors = [], []
    for status, answer in operation["responses"].items():
        if "$ref" in answer:
            errors.append(f"{status} {document['components']['responses'][status]['description']}")
        else:
            answers.append(_row([status, _content(answer), answer["description"]]))
    yield from _table(["status", "body", "meaning"], answers)
    yield from (f"Errors: {', '.join(errors)}.", "")


def _content(answer: Json) -> str:
    """Return what an answer's body is: a shape of ours, else its media type."""
    for media_type, content in answer.get("content", {}).items():
        return _type(content["schema"]) if content["schema"] else f"`{media_type}`"
    return "empty"


def _shape(name: str, shape: Json) -> Iterator[str]:
    yield from (f"### {name}", "", _text(shape.get("description", "")), "")
    required = set(shape.get("required", ()))
    rows = [
        _row([f"`{field}`" + ("" if field in required else " (optional)"), *_value(schema, schema)])
        for field, schema in shape.get("properties", {}).items()
    ]
    yield from _table(["field", "type and bounds", "meaning"], rows)


def _value(schema: Json, described: Json) -> tuple[str, str]:
    """Return type and bounds of a parameter or field, and its meaning."""
    return "; ".join([_type(schema), *_bounds(schema)]), _text(described.get("description", ""))


def _type(schema: Json) -> str:
    """Return the type of a value, with a link where it is a shape of its own."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(_type(choice) for choice in schema[several])
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return "time" if schema.get("format") == "date-time" else str(schema.get("type", "any JSON"))


def _bounds(schema: Json) -> Iterator[str]:
    for choice in [schema, *schema.get("anyOf", ())]:
        for key, text in BOUNDS.items():
            if choice.get(key) not in (None, LARGEST_INTEGER):
                yield text.format(choice[key])


def _token(operation: Json) -> str:
    """Return which token an operation needs: of those with a token only operations for admins answer 403."""
    if not operation["security"]:
        return "none"
    if {} in operation["security"]:
        return "none from this machine, else read"
    return "admin" if "403" in operation["responses"] else "read"


def _table(heads: list[str], rows: list[str]) -> list[str]:
    return [_row(heads), "|" + "---|" * len(heads), *rows, ""] if rows else []


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _text(description: str) -> str:
    """Return a docstring as a line of Markdown."""
    return " ".join(description.replace("``", "`").split())


def _slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return "".join(each for each in heading.lower() if each.isalnum() or each in " -_").replace(" ", "-")
