"""Base class of the models of responses, events and messages between processes."""

from pydantic import BaseModel, ConfigDict


class WireModel(BaseModel):
    """A frozen model without unknown fields.

    Its validator is built when it is first used (``defer_build``): a command uses few of all models.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)
