"""Exit codes of the commands, and which error ends with which."""

from enum import IntEnum

from runtime.errors import MeldwatchError, OutOfReachError


class ExitCode(IntEnum):
    """The exit codes that scripts rely on."""

    OK = 0
    PROBLEM_FOUND = 1
    """The command did its work and found something wrong: drift, a failed check, a difference."""

    USAGE_ERROR = 2
    """Wrong options or settings. Click itself ends with 2 where an option is wrong."""

    UNREACHABLE = 3
    """A dependency (database, broker, Meld, the service) does not answer."""


def get_exit_code(error: MeldwatchError) -> ExitCode:
    """Return the exit code of a command that ended with this error."""
    return ExitCode.UNREACHABLE if isinstance(error, OutOfReachError) else ExitCode.USAGE_ERROR
