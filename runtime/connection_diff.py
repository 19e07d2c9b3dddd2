"""Facts: what of a connection two states of it have otherwise, in the words of our API. Pure."""

from typing import Any

from runtime.document_diff import diff_documents
from schemas import tables
from schemas.api_resources import Connection
from schemas.meld.connection import Snapshot
from schemas.timeline import FieldChange

BOOKKEEPING_FIELDS = {"id", "observed_at", "checked_at", "sequence"}
"""What is shown of a connection, and is not Meld's."""

EXPOSED_MELD_FIELDS = {field.alias or name for name, field in Snapshot.model_fields.items()}
"""The fields of Meld's answer that are shown, by Meld's names."""


def diff_connections(before: tables.ConnectionRow | None, after: tables.ConnectionRow | None) -> list[FieldChange]:
    """Return the fields that two rows of a connection have otherwise; None where it is not known."""
    return [
        FieldChange(field=each.field, before=each.before, after=each.after)
        for each in diff_documents(_facts(before), _facts(after))
        if not (_is_nothing(each.before) and _is_nothing(each.after))
    ]


def list_hidden_changes(before: tables.ConnectionRow | None, after: tables.ConnectionRow | None) -> list[str]:
    """Return the names of what changed in Meld's answer, and is not shown."""
    if before is None or after is None:
        return []
    names = before.document.keys() | after.document.keys()
    return sorted(name for name in names - EXPOSED_MELD_FIELDS if before.document.get(name) != after.document.get(name))


def _facts(row: tables.ConnectionRow | None) -> dict[str, Any]:
    return Connection.from_row(row).model_dump(mode="json", exclude=BOOKKEEPING_FIELDS) if row is not None else {}


def _is_nothing(value: object) -> bool:
    return value is None or value in ([], {})
