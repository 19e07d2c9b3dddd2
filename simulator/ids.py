"""Ids that look like Meld's, and times as Meld writes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime
    from random import Random

#: Base 58: Meld's published ids contain no 0, O, I or l.
ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
ID_LENGTH = 22


class Mint:
    """Makes ids from the randomness it was given, so that a seed gives the same ids again."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def id(self) -> str:
        """An id that nothing else bears."""
        return "".join(self._random.choices(ALPHABET, k=ID_LENGTH))

    def credential(self) -> str:
        """A token that looks like a provider's live one and opens nothing."""
        parts = (f"{self._random.getrandbits(bits):0{bits // 4}x}" for bits in (32, 16, 16, 16, 48))
        return "access-sandbox-" + "-".join(parts)


def iso(moment: datetime) -> str:
    """The time as Meld writes it: UTC, microseconds, Z."""
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
