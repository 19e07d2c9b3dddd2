"""Lenient parser of Meld's connection object.

Source: Meld's reference of ``GET /bank-linking/connections/{id}``. Status and reason are open strings, stored as they
are. ``null``, missing and ``[]`` mean the same. Unknown fields stay in ``document``.
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
"""Characters. A longer text is not accepted as an id; Meld's ids have 22 or 30."""

MAX_INDEXED_BYTES = 2600
"""Limit of indexed texts: PostgreSQL cannot index values of more than 2,704 bytes."""

_DATETIME = TypeAdapter(datetime)


def _lenient_text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _lenient_texts(value: object) -> tuple[str, ...]:
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list | tuple) else ()


def _lenient_mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def is_connection_id(value: object) -> TypeGuard[str]:
    """Return whether a value can be a connection id. A text that cannot be stored unchanged would be another id."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_LENGTH:
        return False
    # The parser replaces invalid characters by U+FFFD, so two such ids may have been different.
    return value.isprintable() and "\ufffd" not in value


def _is_indexable(text: str) -> bool:
    return len(text.encode(errors="replace")) <= MAX_INDEXED_BYTES


def _lenient_indexable(value: object) -> str | None:
    text = _lenient_text(value)
    return text if text is not None and _is_indexable(text) else None


def _check_id(text: str) -> str:
    if not is_connection_id(text):
        raise ValueError("is not an id")
    return text


def _check_indexable(text: str) -> str:
    if not _is_indexable(text):
        raise ValueError("is too long")
    return text


def _empty_to_none(value: object) -> object:
    return None if value == "" else value


def parse_time_or_none(value: object) -> datetime | None:
    """Parse ISO 8601 text with any number of fraction digits; return a UTC time, or None if it is invalid."""
    try:
        time = _DATETIME.validate_python(value) if isinstance(value, str) else None
        return time.astimezone(UTC) if time is not None and time.tzinfo is not None else None
    except (ValidationError, OverflowError):
        return None


def _filter_ids(value: object) -> object:
    """Convert null to empty, and leave out entries that are no ids. A value that is not a list is refused later."""
    if value is None:
        return ()
    return tuple(filter(is_connection_id, value)) if isinstance(value, list | tuple) else value


# Fields that events depend on are strict: a wrong type makes the response unreadable. All other fields are lenient.
Id = Annotated[str, AfterValidator(_check_id)]
Text = Annotated[str | None, BeforeValidator(_lenient_text)]
IndexedText = Annotated[str | None, BeforeValidator(_lenient_indexable)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_lenient_texts)]
Time = Annotated[datetime | None, BeforeValidator(parse_time_or_none)]


class Snapshot(BaseModel):
    """A connection at the time of one read of Meld.

    ``document`` is Meld's whole response without credentials and without the ``key`` of the list.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=False)

    id: Id
    account_id: Text = Field(default=None, alias="accountId")
    customer_id: IndexedText = Field(default=None, alias="customerId")
    external_customer_id: IndexedText = Field(default=None, alias="externalCustomerId")
    institution_id: IndexedText = Field(default=None, alias="institutionId")
    institution_name: Text = Field(default=None, alias="institutionName")
    status: Annotated[str, AfterValidator(_check_indexable)] = Field(min_length=1)
    status_reason: str | None = Field(default=None, alias="statusReason")
    active_duplicate_id: Annotated[Id | None, BeforeValidator(_empty_to_none)] = Field(
        default=None, alias="activeDuplicateConnectionId"
    )
    listed_duplicate_ids: Annotated[tuple[str, ...], BeforeValidator(_filter_ids)] = Field(
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
        """The fingerprint of the response: equal digests mean equal responses."""
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
        """The provider's name in the details, if any."""
        return _lenient_text(self.service_provider_details.get("serviceProvider"))

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> "Snapshot":
        """Parse Meld's response, from which credentials have been removed.

        Raises:
            pydantic.ValidationError: If the response is not a connection.
        """
        kept = {key: value for key, value in document.items() if key != "key"}
        return cls.model_validate({**kept, "document": kept})
