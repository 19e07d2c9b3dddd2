"""The errors that a person or a caller acts on.

    MeldwatchError
    ├── SettingsError      stop, and say which setting to mend (exit code 2)
    ├── UsageError         stop, and say what to ask for instead (exit code 2)
    ├── UnsafeUrlError        a URL may not be pushed to; give another (exit code 2)
    ├── EncryptionError         no key, or none that fits; set the keys (exit code 2)
    ├── HandlerError       a function cannot be a handler; mend its module (exit code 2)
    └── OutOfReachError    a dependency does not answer; try again later (exit code 3)

HTTP statuses are given in one place at the door, ``service/http/problem_details.py``.
"""


class MeldwatchError(Exception):
    """Something that a person can act on; its text is the whole message, without any secret."""


class SettingsError(MeldwatchError):
    """A setting is missing or unusable. The message names the setting, never its value."""


class UsageError(MeldwatchError):
    """A command was asked for something that it cannot do."""


class UnsafeUrlError(MeldwatchError):
    """A URL may not be pushed to, or not now. The message says why."""


class EncryptionError(MeldwatchError):
    """A secret cannot be encrypted or decrypted with the keys that are set."""


class HandlerError(MeldwatchError):
    """A function cannot be a handler, or a module has none that can. The message says what is wrong with which."""


class OutOfReachError(MeldwatchError):
    """A dependency (database, broker, Meld) does not answer."""
