"""A finding of ``meldwatch rebuild``: one thing in which what is stored is not what the observations amount to."""

from typing import Any, Literal

from pydantic import Field

from schemas.wire_model import WireModel

FindingKind = Literal["mirror", "event", "history"]


class RebuildFinding(WireModel):
    """One thing in which what is stored is not what the observations amount to."""

    connection_id: str
    kind: FindingKind = Field(description="A row of the mirror, an event, or the observations themselves.")
    event_id: str | None = None
    field: str = Field(description="What differs: a field, or `row` where it is there on one side alone.")
    stored: Any = None
    folded: Any = Field(default=None, description="What the observations amount to.")
    is_mendable: bool = Field(default=True, description="Whether `rebuild --apply` can mend it.")
    is_mended: bool = Field(default=False, description="Whether it did.")
