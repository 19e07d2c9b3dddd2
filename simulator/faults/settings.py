"""Fault injection settings: faults of webhooks and of reads, and the quirks of Meld, in one model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidationError

from simulator.errors import MalformedError
from simulator.faults.probability import Probability, TimedProbability
from simulator.faults.read_script import ScriptedRead
from simulator.world.quirks import Quirks

if TYPE_CHECKING:
    from random import Random

NEVER = TimedProbability()


class Faults(Quirks):
    """All off by default. A timed probability has seconds: "slow=0.1:5" delays one read in ten by five seconds."""

    lost: Probability = 0.0
    """Webhooks that are never sent."""
    doubled: Probability = 0.0
    """Webhooks that are sent twice at once."""
    delay: TimedProbability = NEVER
    """Webhooks sent late, by up to that many seconds."""
    reordered: TimedProbability = NEVER
    """Webhooks held back until a later one has been sent, for at most that many seconds (1 if none are given)."""
    retry_time: Literal["new", "old"] = "new"
    """Whether a retry is signed with its own time, or with the first attempt's."""
    unix_times: bool = False
    """The signature timestamp is in Unix seconds instead of ISO 8601."""

    latency_ms: Annotated[float, Field(ge=0)] = 0.0
    """Latency of every read, in milliseconds."""
    slow: TimedProbability = NEVER
    """Reads answered that many seconds late, with the state of the moment they began."""
    stale: TimedProbability = NEVER
    """Read lag (eventual consistency): reads that see the state of up to that many seconds ago."""
    throttled: TimedProbability = NEVER
    """Reads answered 429, with a Retry-After of that many seconds if any are given."""
    failing: Probability = 0.0
    """Reads answered 500."""
    hanging: Probability = 0.0
    """Reads never answered."""
    cut: Probability = 0.0
    """Reads whose TCP connection is aborted instead of answered."""
    refused: Probability = 0.0
    """Reads answered 401."""
    shifted: Probability = 0.0
    """Pages of the list, after the first, that repeat or miss an item."""
    refresh_takes: Annotated[float, Field(ge=0)] = 0.0
    """Seconds between the acceptance of a refresh and its effect."""

    @classmethod
    def parse(cls, text: str) -> Faults:
        """Parse a line such as "lost=0.1,slow=0.2:5,deleted_gone=on".

        Raises:
            MalformedError: A name is unknown or a value is invalid.
        """
        pairs = [part.partition("=") for part in text.split(",") if part.strip()]
        return cls.from_json({name.strip(): value.strip() for name, _, value in pairs})

    @classmethod
    def from_json(cls, values: dict[str, object]) -> Faults:
        """Validate the faults of a JSON object.

        Raises:
            MalformedError: A name is unknown or a value is invalid; the message names the field.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            known = f"; known are {', '.join(cls.model_fields)}" if first["type"] == "extra_forbidden" else ""
            raise MalformedError(f"{name}: {first['msg']}{known}") from error

    def draw_read(self, random: Random) -> ScriptedRead:
        """Draw the faults of the next read."""
        return ScriptedRead(
            delay=self.slow.seconds if self.slow.occurs(random) else 0.0,
            stale=random.uniform(0, self.stale.seconds) if self.stale.occurs(random) else 0.0,
            shift=random.choice((-1, 1)) if _occurs(self.shifted, random) else 0,
            hang=_occurs(self.hanging, random),
            cut=_occurs(self.cut, random),
            **self._draw_error(random),
        )

    def _draw_error(self, random: Random) -> dict[str, object]:
        if self.throttled.occurs(random):
            seconds = self.throttled.seconds
            return {"status": 429} | ({"headers": {"Retry-After": f"{seconds:g}"}} if seconds else {})
        if _occurs(self.failing, random):
            return {"status": 500}
        return {"status": 401} if _occurs(self.refused, random) else {}


NO_FAULTS = Faults()


def _occurs(probability: float, random: Random) -> bool:
    return TimedProbability(probability=probability).occurs(random)
