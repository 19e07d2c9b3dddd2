"""Everything that can go wrong on demand, in one model: how Meld behaves, how webhooks arrive, how reads end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidationError

from simulator.errors import MalformedError
from simulator.faults.probability import Chance, Probability
from simulator.faults.read_script import ScriptedRead
from simulator.world.quirks import Quirks

if TYPE_CHECKING:
    from random import Random

NEVER = Chance()


class Faults(Quirks):
    """None of them by default. A chance is a probability with seconds: "slow=0.1:5" is one in ten, by five seconds."""

    lost: Probability = 0.0
    """Webhooks that are never sent."""
    doubled: Probability = 0.0
    """Webhooks that are sent twice at once."""
    delay: Chance = NEVER
    """Webhooks sent late, by up to so many seconds."""
    reordered: Chance = NEVER
    """Webhooks held back until a later one has been sent, for so many seconds at most (none given: 1)."""
    retry_time: Literal["new", "old"] = "new"
    """Whether a retry is signed with its own time, or bears the first attempt's."""
    unix_times: bool = False
    """The signature time is written in Unix seconds instead of ISO 8601."""

    latency_ms: Annotated[float, Field(ge=0)] = 0.0
    """Every read takes at least that long."""
    slow: Chance = NEVER
    """Reads answered so many seconds late, with the state of when they began."""
    stale: Chance = NEVER
    """Reads that see the past, by up to so many seconds."""
    throttled: Chance = NEVER
    """Reads answered 429; with seconds, also a Retry-After of that many."""
    failing: Probability = 0.0
    """Reads answered 500."""
    hanging: Probability = 0.0
    """Reads never answered."""
    cut: Probability = 0.0
    """Reads whose connection breaks instead of an answer."""
    refused: Probability = 0.0
    """Reads answered 401."""
    shifted: Probability = 0.0
    """Pages after the first that repeat an item, or miss one."""
    refresh_takes: Annotated[float, Field(ge=0)] = 0.0
    """Seconds between a refresh being accepted and its effect."""

    @classmethod
    def parse(cls, text: str) -> Faults:
        """The faults of a line such as "lost=0.1,slow=0.2:5,deleted_gone=on", or MalformedError."""
        pairs = [part.partition("=") for part in text.split(",") if part.strip()]
        return cls.read({name.strip(): value.strip() for name, _, value in pairs})

    @classmethod
    def read(cls, values: dict[str, object]) -> Faults:
        """The faults of a JSON object, or MalformedError that names what is wrong."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            known = f"; known are {', '.join(cls.model_fields)}" if first["type"] == "extra_forbidden" else ""
            raise MalformedError(f"{name}: {first['msg']}{known}") from error

    def draw(self, random: Random) -> ScriptedRead:
        """How the next read goes."""
        return ScriptedRead(
            delay=self.slow.seconds if self.slow.strikes(random) else 0.0,
            stale=random.uniform(0, self.stale.seconds) if self.stale.strikes(random) else 0.0,
            shift=random.choice((-1, 1)) if _strikes(self.shifted, random) else 0,
            hang=_strikes(self.hanging, random),
            cut=_strikes(self.cut, random),
            **self._refusal(random),
        )

    def _refusal(self, random: Random) -> dict[str, object]:
        if self.throttled.strikes(random):
            seconds = self.throttled.seconds
            return {"status": 429} | ({"headers": {"Retry-After": f"{seconds:g}"}} if seconds else {})
        if _strikes(self.failing, random):
            return {"status": 500}
        return {"status": 401} if _strikes(self.refused, random) else {}


NO_FAULTS = Faults()


def _strikes(probability: float, random: Random) -> bool:
    return Chance(probability=probability).strikes(random)
