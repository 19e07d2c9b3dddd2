"""Single instance: a lock file allows one serving process for each SQLite file. The lock ends with the process."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.errors import SettingsError
from runtime.settings import Settings


@contextmanager
def hold_single_instance_lock(settings: Settings) -> Iterator[None]:
    """Hold the lock of the SQLite file while the block runs; do nothing for PostgreSQL.

    Raises:
        SettingsError: If another process serves the file, or its folder is not writable.
    """
    if not settings.is_sqlite:
        yield
        return
    path = settings.sqlite_path.with_name(settings.sqlite_path.name + ".lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise SettingsError(f"MELDWATCH_DATABASE_URL names a file that cannot be created ({error.strerror}).") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise SettingsError("MELDWATCH_DATABASE_URL names a file that another `meldwatch up` uses.") from None
    try:
        yield
    finally:
        os.close(descriptor)
