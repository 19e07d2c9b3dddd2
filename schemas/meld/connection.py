"""Meld's connection object as we read it, and what a read of Meld can come to.

Source: Meld's reference of ``GET /bank-linking/connections/{id}``. Status and reason are open strings, kept as they
come; ``null``, absent and ``[]`` mean the same; fields that we do not know stay in ``document``.
"""

import hashlib
import json
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Any, TypeGuard

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from schemas.meld.webhook import DELETED

EXPIRED = "EXPIRED"
IN_PROGRESS = "IN_PROGRESS"
TERMINAL_STATUSES = frozenset({DELETED, EXPIRED})

MAX_ID_LENGTH = 200
"""Characters of an id that is believed; Meld's have 22 or 30."""

MAX_INDEXED_BYTES = 2600
"""Bytes of a text that connections are looked up by. PostgreSQL indexes no value of over 2,704."""

_DATETIME = TypeAdapter(datetime)


def _lenient_text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _lenient_texts(value: object) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list | tuple) else ()


def _lenient_mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def is_connection_id(value: object) -> TypeGuard[str]:
    """Return whether this names a connection: one that had to be altered to be stored would name something else."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_LENGTH:
        return False
    # U+FFFD stands where the parser met what is no text; two such ids may have been different ones.
    return value.isprintable() and "\ufffd" not in value


def _is_kept(text: str) -> bool:
    return len(text.encode(errors="replace")) <= MAX_INDEXED_BYTES


def _lenient_kept(value: object) -> str | None:
    text = _lenient_text(value)
    return text if text is not None and _is_kept(text) else None


def _id(text: str) -> str:
    if not is_connection_id(text):
        raise ValueError("is no id")
    return text


def _kept(text: str) -> str:
    if not _is_kept(text):
        raise ValueError("is too long")
    return text


def _none_for_empty(value: object) -> object:
    return None if value == "" else value


def parse_time_or_none(value: object) -> datetime | None:
    """Return a time, UTC, from ISO 8601 text with any number of fraction digits; None where it is none."""
    try:
        time = _DATETIME.validate_python(value) if isinstance(value, str) else None
        return time.astimezone(UTC) if time is not None and time.tzinfo is not None else None
    except (ValidationError, OverflowError):
        return None


def _only_ids(value: object) -> object:
    """Read null as empty, and leave out what is no id; what is no list at all stays, to be refused."""
    if value is None:
        return ()
    return tuple(filter(is_connection_id, value)) if isinstance(value, list | tuple) else value


# What the mirror's truth hangs on is strict: a wrong type there makes the answer unreadable. The rest is lenient.
Id = Annotated[str, AfterValidator(_id)]
Text = Annotated[str | None, BeforeValidator(_lenient_text)]
KeptText = Annotated[str | None, BeforeValidator(_lenient_kept)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_lenient_texts)]
Time = Annotated[datetime | None, BeforeValidator(parse_time_or_none)]


class Snapshot(BaseModel):
    """One connection as one read of Meld showed it.

    ``document`` is Meld's whole answer, already without secrets and without the list's ``key``.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=False)

    id: Id
    account_id: Text = Field(default=None, alias="accountId")
    customer_id: KeptText = Field(default=None, alias="customerId")
    external_customer_id: KeptText = Field(default=None, alias="externalCustomerId")
    institution_id: KeptText = Field(default=None, alias="institutionId")
    institution_name: Text = Field(default=None, alias="institutionName")
    status: Annotated[str, AfterValidator(_kept)] = Field(min_length=1)
    status_reason: str | None = Field(default=None, alias="statusReason")
    active_duplicate_id: Annotated[Id | None, BeforeValidator(_none_for_empty)] = Field(
        default=None, alias="activeDuplicateConnectionId"
    )
    listed_duplicate_ids: Annotated[tuple[str, ...], BeforeValidator(_only_ids)] = Field(
        default=(), alias="duplicateConnectionIds"
    )
    products: Texts = ()
    optional_products: Texts = Field(default=(), alias="optionalProducts")
    regions: Texts = ()
    service_provider_details: Annotated[dict[str, Any], BeforeValidator(_lenient_mapping)] = Field(
        default_factory=dict, alias="serviceProviderDetails"
    )
    created_at: Time = Field(default=None, alias="createdAt")
    aggregated_at: Time = Field(default=None, alias="successfullyAggregatedAt")
    document: dict[str, Any] = Field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        """The answer's fingerprint: two reads with one digest saw the same."""
        canonical = json.dumps(self.document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    @property
    def duplicate_ids(self) -> tuple[str, ...]:
        """The other members of the group, in Meld's order, each once, without the connection itself."""
        return tuple(dict.fromkeys(item for item in self.listed_duplicate_ids if item and item != self.id))

    @property
    def primary_duplicate_id(self) -> str | None:
        """The member that Meld keeps up to date; None where the connection has no duplicates."""
        return self.active_duplicate_id or None

    @property
    def service_provider(self) -> str | None:
        """The provider's name, where the details say one."""
        return _lenient_text(self.service_provider_details.get("serviceProvider"))

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> "Snapshot":
        """Read Meld's answer, from which secrets are already gone.

        Raises:
            pydantic.ValidationError: Where the answer is no connection.
        """
        kept = {key: value for key, value in document.items() if key != "key"}
        return cls.model_validate({**kept, "document": kept})
