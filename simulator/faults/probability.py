"""A probability, and how long what it brings lasts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from random import Random

Probability = Annotated[float, Field(ge=0, le=1)]


class Chance(BaseModel):
    """Written "0.3", "0.3:5" (with seconds), 0.3, [0.3, 5] or as an object."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    probability: Probability = 0.0
    seconds: Annotated[float, Field(ge=0)] = 0.0

    def strikes(self, random: Random) -> bool:
        """Whether it happens this time; what is impossible draws no random number."""
        return self.probability > 0 and random.random() < self.probability

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:  # noqa: ANN401 - anything may be written there
        if isinstance(value, str):
            value = value.split(":", 1)
        if isinstance(value, int | float):
            value = [value]
        if isinstance(value, list):
            return dict(zip(("probability", "seconds"), value, strict=False))
        return value
