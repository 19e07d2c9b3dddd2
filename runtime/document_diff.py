"""Field-by-field diff of two JSON documents. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """A field that differs between two documents.

    Attributes:
        field: Its name; for a nested field, the path with dots.
        before: The value in the first document; None also if the field is missing.
        after: The value in the second document.
    """

    field: str
    before: Any
    after: Any


def diff_documents(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[FieldDifference]:
    """Yield the differences in the order of the fields. A missing field equals a null field."""
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            for inner in diff_documents(old, new):
                yield FieldDifference(f"{name}.{inner.field}", inner.before, inner.after)
        elif old != new:
            yield FieldDifference(name, old, new)
