"""HTTP status of each error class: the only place that maps errors to statuses."""

from runtime.errors import EncryptionError, MeldwatchError, OutOfReachError, UnsafeUrlError, UsageError
from service.errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    ConflictError,
    ForbiddenError,
    InvalidBodyError,
    InvalidQueryError,
    InvalidTokenError,
    NotFoundError,
    TooManyStreamsError,
)

STATUSES: dict[type[MeldwatchError], int] = {
    InvalidTokenError: 401,
    ForbiddenError: 403,
    NotFoundError: 404,
    BodyTimeoutError: 408,
    ConflictError: 409,
    EncryptionError: 409,
    BodyTooLargeError: 413,
    InvalidQueryError: 422,
    InvalidBodyError: 422,
    UnsafeUrlError: 422,
    UsageError: 422,
    TooManyStreamsError: 503,
    OutOfReachError: 503,
    MeldwatchError: 500,
}
"""HTTP status by error class; a class that is not listed has the status of its nearest listed base class."""


def http_status_of(error: MeldwatchError) -> int:
    """Return the HTTP status of an error."""
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)
