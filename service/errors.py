"""Errors of API requests, each of which tells the caller what to change.

    MeldwatchError
    └── RequestError
        ├── InvalidTokenError    send a valid token
        ├── ForbiddenError       send a token with the admin permission
        ├── NotFoundError        request another id
        ├── InvalidQueryError    correct the query
        ├── TooManyStreamsError  try again later
        ├── InvalidBodyError     correct the body
        ├── BodyTooLargeError    send a smaller body
        ├── BodyTimeoutError     send the body faster
        └── ConflictError        look at the existing resource

``service.http.problem_details`` maps them to HTTP statuses.
"""

from runtime.errors import MeldwatchError


class RequestError(MeldwatchError):
    """A request cannot be answered as it was sent."""


class InvalidTokenError(RequestError):
    """The request has no valid token. Send one as `Authorization: Bearer <token>`."""

    def __init__(self) -> None:
        super().__init__(type(self).__doc__)


class ForbiddenError(RequestError):
    """The token permits reading only. Send one of the admin tokens."""

    def __init__(self) -> None:
        super().__init__(type(self).__doc__)


class NotFoundError(RequestError):
    """The requested resource does not exist."""


class TooManyStreamsError(RequestError):
    """This process serves its maximum of streams. Try again later, or use `/api/events` with `wait`."""

    def __init__(self) -> None:
        super().__init__(type(self).__doc__)


class InvalidQueryError(RequestError):
    """The query has a parameter that is unknown, missing or out of range; the message names it."""


class InvalidBodyError(RequestError):
    """The body is not JSON, or has a field that is unknown, missing or out of range; the message names it."""


class BodyTooLargeError(RequestError):
    """The body is larger than this route accepts."""


class BodyTimeoutError(RequestError):
    """The body did not arrive completely in time."""


class ConflictError(RequestError):
    """The request contradicts the present state of the resource."""
