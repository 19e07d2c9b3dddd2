"""One serving process per SQLite file: the lock of a file beside it, which ends with the process however that ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.errors import SettingsError
from runtime.settings import Settings


@contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """Hold the SQLite file's lock while the block runs; on PostgreSQL there is nothing to hold.

    Raises:
        SettingsError: Where another process serves the file, or its folder cannot be written.
    """
    if not settings.is_sqlite:
        yield
        return
    path = settings.sqlite_path.with_name(settings.sqlite_path.name + ".lock")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise SettingsError(f"MELDWATCH_DATABASE_URL names a file that cannot be made ({error.strerror}).") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise SettingsError("MELDWATCH_DATABASE_URL names a file that another `meldwatch up` serves.") from None
    try:
        yield
    finally:
        os.close(descriptor)
