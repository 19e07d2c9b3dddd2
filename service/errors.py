"""The errors that a caller of the API acts on.

    MeldwatchError
    └── RequestError
        ├── TokenError      send a valid token
        ├── RightError      send a token that may do more
        ├── UnknownError    ask for something else
        ├── QueryError      mend the query
        ├── CrowdedError    try again later
        ├── BodyError       mend the body
        ├── LargeError      send less
        ├── SlowError       send faster
        └── ConflictError   look what is there already

Their HTTP statuses are in ``problems.py``.
"""

from runtime.errors import MeldwatchError


class RequestError(MeldwatchError):
    """A request cannot be answered as it stands."""


class TokenError(RequestError):
    """No valid token came with the request. Send one as `Authorization: Bearer <token>`."""

    def __init__(self) -> None:
        super().__init__(type(self).__doc__)


class RightError(RequestError):
    """The token may read, but not act. Send one of the admin tokens."""

    def __init__(self) -> None:
        super().__init__(type(self).__doc__)


class UnknownError(RequestError):
    """Nothing that was asked for is known."""


class CrowdedError(RequestError):
    """As many streams are open here as there may be. Try again later, or ask for `/api/events` with `wait`."""

    def __init__(self) -> None:
        super().__init__(type(self).__doc__)


class QueryError(RequestError):
    """The query has a parameter that is unknown, missing or out of bounds; the message names it."""


class BodyError(RequestError):
    """The body is no JSON, or has a field that is unknown, missing or out of bounds; the message names it."""


class LargeError(RequestError):
    """The body is larger than any that this route knows."""


class SlowError(RequestError):
    """The body was not in within its time."""


class ConflictError(RequestError):
    """What was asked for contradicts what is there."""
