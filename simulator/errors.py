"""Errors of the simulator, by HTTP status.

SimulatorError
├── AbsentError      404: the request names something that does not exist
├── ImpossibleError  409: Meld's rules do not allow the action in the present state
├── MalformedError   400: the request cannot be parsed or validated
└── RefusedError     401: the credentials are missing or wrong
"""


class SimulatorError(Exception):
    """Base class of the simulator's errors."""


class AbsentError(SimulatorError):
    """The named connection, webhook or action does not exist."""


class ImpossibleError(SimulatorError):
    """Meld's rules do not allow the action in the present state."""


class MalformedError(SimulatorError, ValueError):
    """The request cannot be parsed or validated."""


class RefusedError(SimulatorError):
    """The credentials are missing or wrong."""
