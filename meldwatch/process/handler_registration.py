"""Component that registers the handlers as subscriptions at the start, and retries while the database is away."""

import threading
from collections.abc import Callable

from runtime import logs
from runtime.errors import MeldwatchError, OutOfReachError

log = logs.get_logger(__name__)

RETRY_SECONDS = 2.0
"""Interval between attempts while the database does not answer."""


class HandlerRegistration:
    """Registers the handlers as subscriptions when a process starts, or as soon as the database answers.

    Args:
        register: Creates the subscriptions; idempotent; may raise ``OutOfReachError``.
        retry_seconds: Interval between attempts.
    """

    def __init__(self, register: Callable[[], None], *, retry_seconds: float = RETRY_SECONDS) -> None:
        self._register = register
        self._retry_seconds = retry_seconds
        self._is_stopping = threading.Event()
        self._is_done = False
        self._thread = threading.Thread(target=self._retry, name="handler-registration", daemon=True)

    def start(self) -> None:
        """Register the handlers; if the database is away, retry in a thread.

        Raises:
            SettingsError: If a subscription cannot be created.
        """
        try:
            self._register()
            self._is_done = True
        except OutOfReachError:
            log.warning("handlers not registered", detail="The database does not answer. Retrying until it does.")
            self._thread.start()

    def stop(self) -> None:
        """Stop retrying."""
        self._is_stopping.set()

    def is_alive(self) -> bool:
        """Return whether the handlers are registered, or may still be."""
        return self._is_done or self._thread.is_alive()

    def _retry(self) -> None:
        while not (self._is_done or self._is_stopping.wait(self._retry_seconds)):
            try:
                self._register()
                self._is_done = True
            except OutOfReachError:
                continue
            except MeldwatchError as error:
                log.error("handlers not registered", detail=str(error))  # noqa: TRY400 - its message is enough
                return
            except Exception:
                log.exception("handlers not registered")
                return
