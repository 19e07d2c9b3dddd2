"""A finding of ``meldwatch rebuild``: a difference between stored data and the projection of the observations."""

from typing import Any, Literal

from pydantic import Field

from schemas.wire_model import WireModel

FindingKind = Literal["mirror", "event", "history"]


class RebuildFinding(WireModel):
    """A difference between stored data and the projection of the observations."""

    connection_id: str
    kind: FindingKind = Field(
        description="Where the difference is: in the mirror, in an event, or in the observations themselves."
    )
    event_id: str | None = None
    field: str = Field(description="The field that differs, or `row` if it exists on one side only.")
    stored: Any = None
    folded: Any = Field(default=None, description="The value that the observations project to.")
    is_mendable: bool = Field(default=True, description="Whether `rebuild --apply` can repair it.")
    is_mended: bool = Field(default=False, description="Whether it was repaired.")
