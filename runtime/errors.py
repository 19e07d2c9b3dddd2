"""Exceptions that a person or a caller acts on, with the exit code of the command line.

    MeldwatchError
    ├── SettingsError      stop, and name the setting to correct (exit code 2)
    ├── UsageError         stop, and say what to do instead (exit code 2)
    ├── UnsafeUrlError     the SSRF guard refuses a URL; use another (exit code 2)
    ├── EncryptionError    no key, or no key that fits; set the keys (exit code 2)
    ├── HandlerError       a function cannot be a handler; correct its module (exit code 2)
    └── OutOfReachError    a dependency does not answer; try again later (exit code 3)

``service/http/problem_details.py`` maps them to HTTP statuses.
"""


class MeldwatchError(Exception):
    """An error that a person can act on. Its text is the whole message, without secrets."""


class SettingsError(MeldwatchError):
    """A setting is missing or unusable. The message names the setting, never its value."""


class UsageError(MeldwatchError):
    """A command cannot do what its arguments say."""


class UnsafeUrlError(MeldwatchError):
    """Events may not be pushed to a URL, or not now. The message says why."""


class EncryptionError(MeldwatchError):
    """A secret cannot be encrypted or decrypted with the keys that are set."""


class HandlerError(MeldwatchError):
    """A function cannot be a handler, or a module has no handler. The message names it and says what is wrong."""


class OutOfReachError(MeldwatchError):
    """A dependency (database, broker, Meld) does not answer."""
