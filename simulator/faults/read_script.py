"""How one read goes, by script or by chance."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


class ScriptedRead(BaseModel):
    """What is done to a read; the truth it answers with is looked up when the read begins, whatever the delay."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    delay: Annotated[float, Field(ge=0)] = 0.0
    """Seconds before the answer, beside the latency that every read has."""
    stale: Annotated[float, Field(ge=0)] = 0.0
    """Answer what was true so many seconds ago."""
    shift: int = 0
    """Begin a page of the list so many items too early."""
    status: Annotated[int, Field(ge=200, le=599)] | None = None
    """Answer with this code; from 400 on with Meld's error envelope, unless there is a body."""
    headers: dict[str, str] = {}
    """Add these headers to the answer."""
    body: Any = None
    """Answer with this instead of the truth: a string as it stands, anything else as JSON."""
    cut: bool = False
    """Break the connection instead of answering."""
    hang: bool = False
    """Never answer."""

    @property
    def scripted(self) -> bool:
        """Whether it has a body of its own; null is one."""
        return "body" in self.model_fields_set
