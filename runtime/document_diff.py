"""Compare: where two documents differ, field by field. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """A field that two documents have otherwise.

    Attributes:
        field: Its name; of one inside another, both, with a dot between.
        before: What the one says; None also where it has no such field.
        after: What the other says.
    """

    field: str
    before: Any
    after: Any


def diff_documents(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[FieldDifference]:
    """Yield where documents differ, in the order of their fields. A field that is absent is as one that is null."""
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            for inner in diff_documents(old, new):
                yield FieldDifference(f"{name}.{inner.field}", inner.before, inner.after)
        elif old != new:
            yield FieldDifference(name, old, new)
