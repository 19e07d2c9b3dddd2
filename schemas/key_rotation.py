"""A rotation of the keys that encrypt what is stored: what ``meldwatch keys rotate`` came to."""

from typing import Literal

from pydantic import Field

from schemas.wire_model import WireModel

KeyPlace = Literal["newest", "older", "not set"]
EncryptedKind = Literal["webhook bodies", "rejection bodies", "subscription secrets"]

UNENCRYPTED = "clear"
UNKNOWN_KEY = "unknown"


class KeyRotationReport(WireModel):
    """What a rotation came to, for one kind of what is stored encrypted."""

    kind: EncryptedKind
    rotated: int = Field(description="How many were encrypted anew, with the newest key.")
    unreadable: int = Field(description="How many are as they were, since no key opens them.")
    newest: str = Field(description="The newest key, by its name.")
    keys: dict[str, int] = Field(
        description="How many are encrypted with which key now, by its name; `clear` are those that are not, `unknown`"
        " those of which nothing tells."
    )


class KeyUse(WireModel):
    """How much is encrypted with one key."""

    key: str
    place: KeyPlace = Field(description="Where it stands among the keys that are set.")
    uses: int
