"""Field-by-field diff: of two JSON documents, and of two states of a connection in the field names of the API. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from schemas import tables
from schemas.api_resources import Connection
from schemas.meld.connection import Snapshot
from schemas.timeline import FieldChange

BOOKKEEPING_FIELDS = {"id", "observed_at", "checked_at", "sequence"}
"""Fields of the API's connection that do not come from Meld."""

EXPOSED_MELD_FIELDS = {field.alias or name for name, field in Snapshot.model_fields.items()}
"""The fields of Meld's response that the API exposes, by Meld's names."""


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


def diff_connections(before: tables.ConnectionRow | None, after: tables.ConnectionRow | None) -> list[FieldChange]:
    """Return the fields that differ between two rows of a connection; None stands for an unknown connection."""
    return [
        FieldChange(field=each.field, before=each.before, after=each.after)
        for each in diff_documents(_exposed_fields(before), _exposed_fields(after))
        if not (_is_empty(each.before) and _is_empty(each.after))
    ]


def list_hidden_changes(before: tables.ConnectionRow | None, after: tables.ConnectionRow | None) -> list[str]:
    """Return Meld's names of the changed fields that the API does not expose."""
    if before is None or after is None:
        return []
    names = before.document.keys() | after.document.keys()
    return sorted(name for name in names - EXPOSED_MELD_FIELDS if before.document.get(name) != after.document.get(name))


def _exposed_fields(row: tables.ConnectionRow | None) -> dict[str, Any]:
    return Connection.from_row(row).model_dump(mode="json", exclude=BOOKKEEPING_FIELDS) if row is not None else {}


def _is_empty(value: object) -> bool:
    return value is None or value in ([], {})
