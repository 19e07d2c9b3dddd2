"""What all shapes have in common that leave the service."""

from pydantic import BaseModel, ConfigDict


class WireModel(BaseModel):
    """A frozen shape that leaves the service."""

    model_config = ConfigDict(frozen=True, extra="forbid")
