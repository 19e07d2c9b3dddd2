"""The probability of a fault, with the seconds it lasts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    from random import Random

Probability = Annotated[float, Field(ge=0, le=1)]


class TimedProbability(BaseModel):
    """A probability with a duration; written "0.3", "0.3:5" (with seconds), 0.3, [0.3, 5] or as an object."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    probability: Probability = 0.0
    seconds: Annotated[float, Field(ge=0)] = 0.0

    def occurs(self, random: Random) -> bool:
        """Draw whether the fault occurs this time; probability 0 uses up no random number."""
        return self.probability > 0 and random.random() < self.probability

    @model_validator(mode="before")
    @classmethod
    def _parse_short_forms(cls, value: Any) -> Any:  # noqa: ANN401 - input of any type
        if isinstance(value, str):
            value = value.split(":", 1)
        if isinstance(value, int | float):
            value = [value]
        if isinstance(value, list):
            return dict(zip(("probability", "seconds"), value, strict=False))
        return value
