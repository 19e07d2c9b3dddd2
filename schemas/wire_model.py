"""Base class of the models of responses, events and messages between processes."""

from pydantic import BaseModel, ConfigDict


class WireModel(BaseModel):
    """A frozen model without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")
