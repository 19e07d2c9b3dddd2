"""What can be wrong with a wish.

SimulatorError
├── AbsentError      it names something that does not exist
├── ImpossibleError  Meld's rules do not allow it in the present state
├── MalformedError   it cannot be understood
└── RefusedError     it came without the right credentials
"""


class SimulatorError(Exception):
    """The simulator cannot do what was asked."""


class AbsentError(SimulatorError):
    """Nothing here bears that name."""


class ImpossibleError(SimulatorError):
    """Meld's rules do not allow that now."""


class MalformedError(SimulatorError, ValueError):
    """The wish cannot be understood."""


class RefusedError(SimulatorError):
    """The credentials are missing or wrong."""
