"""The errors that a person or a caller acts on.

    MeldwatchError
    ├── SettingsError      stop, and say which setting to mend (exit code 2)
    ├── UsageError         stop, and say what to ask for instead (exit code 2)
    └── OutOfReachError    a dependency does not answer; try again later (exit code 3)

HTTP statuses are given in one place at the door, ``service/problems.py``.
"""


class MeldwatchError(Exception):
    """Something that a person can act on; its text is the whole message, without any secret."""


class SettingsError(MeldwatchError):
    """A setting is missing or unusable. The message names the setting, never its value."""


class UsageError(MeldwatchError):
    """A command was asked for something that it cannot do."""


class OutOfReachError(MeldwatchError):
    """A dependency (database, broker, Meld) does not answer."""
