"""Report of a key rotation (``meldwatch keys rotate``)."""

from typing import Literal

from pydantic import Field

from schemas.wire_model import WireModel

KeyPlace = Literal["newest", "older", "not set"]
EncryptedKind = Literal["webhook bodies", "rejection bodies", "subscription secrets"]

UNENCRYPTED = "clear"
UNKNOWN_KEY = "unknown"


class KeyRotationReport(WireModel):
    """The result of a key rotation for one kind of encrypted content."""

    kind: EncryptedKind
    rotated: int = Field(description="How many were encrypted again with the newest key.")
    unreadable: int = Field(description="How many are unchanged, because no key decrypts them.")
    newest: str = Field(description="The name of the newest key.")
    keys: dict[str, int] = Field(
        description="How many are now encrypted with each key, by its name; `clear` are not encrypted, and the"
        " key of `unknown` cannot be determined."
    )


class KeyUse(WireModel):
    """How much content is encrypted with one key."""

    key: str
    place: KeyPlace = Field(description="The place of the key in the setting.")
    uses: int
