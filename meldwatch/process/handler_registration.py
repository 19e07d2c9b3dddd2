"""The subscriptions of handlers as a part of a process: they are there before its workers start, if the database is."""

import threading
from collections.abc import Callable

from runtime import logs
from runtime.errors import MeldwatchError, OutOfReachError

log = logs.get(__name__)

RETRY_SECONDS = 2.0
"""Where the database does not answer at the start, it is asked again so soon."""


class HandlerRegistration:
    """Has the subscriptions of handlers made when a process starts, or as soon as the database answers.

    Args:
        enlist: Makes them; may raise ``OutOfReachError``. Once is enough, and twice does no harm.
        retry_seconds: How soon it is tried again.
    """

    def __init__(self, enlist: Callable[[], None], *, retry_seconds: float = RETRY_SECONDS) -> None:
        self._enlist = enlist
        self._retry_seconds = retry_seconds
        self._is_stopping = threading.Event()
        self._is_done = False
        self._thread = threading.Thread(target=self._go_on, name="enlisting", daemon=True)

    def start(self) -> None:
        """Make them; where the database is away, go on trying beside the other parts.

        Raises:
            SettingsError: Where one of them cannot be made.
        """
        try:
            self._enlist()
            self._is_done = True
        except OutOfReachError:
            log.warning("handlers not enlisted", detail="The database does not answer; tried again until it does.")
            self._thread.start()

    def stop(self) -> None:
        """Try no more."""
        self._is_stopping.set()

    def is_alive(self) -> bool:
        """Return whether they were made, or still may be."""
        return self._is_done or self._thread.is_alive()

    def _go_on(self) -> None:
        while not (self._is_done or self._is_stopping.wait(self._retry_seconds)):
            try:
                self._enlist()
                self._is_done = True
            except OutOfReachError:
                continue
            except MeldwatchError as error:
                log.error("handlers not enlisted", detail=str(error))  # noqa: TRY400 - what it says is all there is
                return
            except Exception:
                log.exception("handlers not enlisted")
                return
