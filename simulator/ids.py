"""Random ids in Meld's format, from a seed; timestamps as Meld writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime
    from random import Random

#: Base 58: Meld's published ids contain no 0, O, I or l.
ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
ID_LENGTH = 22


class IdGenerator:
    """Generates ids from the random source it is given, so the same seed gives the same ids."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def new_id(self) -> str:
        """Return an unused id."""
        return "".join(self._random.choices(ALPHABET, k=ID_LENGTH))

    def new_access_token(self) -> str:
        """Return a made-up token in the format of a provider's access token."""
        parts = (f"{self._random.getrandbits(bits):0{bits // 4}x}" for bits in (32, 16, 16, 16, 48))
        return "access-sandbox-" + "-".join(parts)


def format_time(moment: datetime) -> str:
    """Return the time in Meld's format: ISO 8601, UTC, microseconds, Z."""
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
