"""Pool of child processes that run event handlers written in Python. Each process handles one event at a time.

A handler that hangs, even where no thread could be interrupted, is killed with its process; a crash affects no other
handler. A process stays for further events, so that a call of a ready process takes milliseconds.
"""

import threading
from collections.abc import Sequence
from time import monotonic

from pydantic import ValidationError

from runtime.errors import SettingsError
from runtime.handlers.child_process import HandlerExitedError, HandlerProcess, HandlerProcessError, HandlerTimeoutError
from runtime.net.push_client import response_excerpt
from runtime.security.lenient_json import clean_text
from schemas.handler_protocol import Handler, HandlerCall, HandlerResult, LoadHandlersRequest, LoadHandlersResponse
from schemas.push import PushResult

BUSY_WAIT_SECONDS = 0.1
"""If no process becomes free within this time, another is started."""

LOAD_TIMEOUT_SECONDS = 60.0
"""How long the import of the modules may take."""

ACQUIRE_TIMEOUT_SECONDS = 8.0
"""How long an event waits for a process. This time and the handler's own timeout are shorter than a lease."""

RESTART_DELAY_SECONDS = 5.0
"""After a process could not be started, no other is started for this time."""

IDLE_TIMEOUT_SECONDS = 300.0
"""A process that was not used for this time, because others were free, is ended."""

EXIT_TIMEOUT_SECONDS = 1.0
"""How long idle processes may take to exit by themselves."""


class HandlerPool:
    """The processes that run handlers. Threads share one pool.

    It holds at most as many processes as there are threads that call handlers, see ``workers/delivery/concurrency.py``.

    Args:
        command: The command that starts a process.
        modules: The modules with handlers.
        log_format: The log format of the processes.
        load_seconds: How long the import of the modules may take.
        acquire_seconds: How long an event waits for a process.
        idle_seconds: After which time an unused process is ended.
    """

    def __init__(
        self,
        *,
        command: Sequence[str],
        modules: Sequence[str],
        log_format: str,
        load_seconds: float = LOAD_TIMEOUT_SECONDS,
        acquire_seconds: float = ACQUIRE_TIMEOUT_SECONDS,
        idle_seconds: float = IDLE_TIMEOUT_SECONDS,
    ) -> None:
        self._command = command
        self._load_request = LoadHandlersRequest(modules=tuple(modules), log_format=log_format)
        self._load_seconds = load_seconds
        self._acquire_seconds = acquire_seconds
        self._idle_seconds = idle_seconds
        self._handlers: dict[str, Handler] = {}
        self._changed = threading.Condition()
        self._idle: dict[HandlerProcess, float] = {}
        self._all: set[HandlerProcess] = set()
        self._starting = 0
        self._waiting = 0
        self._last_failure: tuple[float, str] | None = None
        self._is_closed = False

    def start(self) -> tuple[Handler, ...]:
        """Start the first process, and return the handlers in its modules. Without modules there is nothing to start.

        Raises:
            SettingsError: If a module cannot be imported, or has no handler.
        """
        if not self._load_request.modules:
            return ()
        try:
            process, handlers = self._start_process()
        except HandlerProcessError as error:
            raise SettingsError(f"MELDWATCH_HANDLERS: {error}") from None
        self._handlers = {handler.name: handler for handler in handlers}
        self._release(process)
        return handlers

    def run(self, name: str, body: bytes) -> PushResult:
        """Call a handler with an event. Never raises for what a handler does."""
        handler = self._handlers.get(name)
        if handler is None:
            return PushResult(
                detail=f"there is no handler {name}: restore it, with its module in MELDWATCH_HANDLERS of every"
                f" worker, or remove its subscription (meldwatch subscriptions remove {name})",
                is_local_failure=True,
            )
        try:
            process = self._acquire()
        except HandlerProcessError as error:
            return PushResult(detail=str(error), is_local_failure=True, is_cancelled=self._is_closed)
        call = HandlerCall(name=name, event=body.decode()).model_dump_json()
        try:
            result = HandlerResult.model_validate_json(process.request(call, handler.seconds))
        except HandlerTimeoutError:
            self._replace(process)
            return PushResult(detail=f"the handler took longer than {handler.seconds:g} s, and was stopped")
        except (HandlerExitedError, ValidationError):
            ending = self._replace(process)
            return PushResult(detail=f"the handler's process ended ({ending})", is_cancelled=self._is_closed)
        self._release(process)
        return _to_push_result(result)

    def close(self) -> None:
        """End all processes: idle ones exit by themselves, busy ones are killed."""
        with self._changed:
            self._is_closed = True
            idle = list(self._idle)
            busy = self._all.difference(idle)
            self._idle.clear()
            self._changed.notify_all()
        for process in busy:
            process.kill()
        self._end_idle(idle)

    def _acquire(self) -> HandlerProcess:
        """Return a process that is ready; start one if none becomes free.

        Raises:
            HandlerProcessError: If none can be started, or none is ready in time. A start that has begun goes on.
        """
        began = monotonic()
        with self._changed:
            self._waiting += 1
            try:
                while (process := self._pop_idle()) is None:
                    now = monotonic()
                    if problem := self._find_problem(now, waited=now - began):
                        raise HandlerProcessError(problem)
                    until = began + (BUSY_WAIT_SECONDS if self._all else 0.0)
                    if now >= until:
                        until = began + self._acquire_seconds
                        if self._starting < self._waiting:
                            self._start_in_background()
                    self._changed.wait(until - now)
                return process
            finally:
                self._waiting -= 1

    def _find_problem(self, now: float, *, waited: float) -> str | None:
        """Return why it is useless to wait for a process; None if it is not."""
        if self._is_closed:
            return "the worker is shutting down"
        if self._last_failure is not None and now < self._last_failure[0]:
            return self._last_failure[1]
        if waited >= self._acquire_seconds:
            return f"no handler process was ready within {self._acquire_seconds:g} s"
        return None

    def _pop_idle(self) -> HandlerProcess | None:
        """Return the live process that was used last, so that superfluous ones stay unused; None without one."""
        while self._idle:
            process, _since = self._idle.popitem()
            if process.is_alive:
                return process
            self._terminate(process)
        return None

    def _release(self, process: HandlerProcess, *, is_new: bool = False) -> None:
        """Keep a process for the next event, and end the processes that have been idle for too long."""
        with self._changed:
            self._starting -= is_new
            now = self._idle[process] = monotonic()
            is_expired = {
                each: self._is_closed or since < now - self._idle_seconds for each, since in self._idle.items()
            }
            self._idle = {each: since for each, since in self._idle.items() if not is_expired[each]}
            self._changed.notify_all()
        self._end_idle([each for each, is_so in is_expired.items() if is_so])

    def _end_idle(self, processes: Sequence[HandlerProcess]) -> None:
        """Let idle processes exit by themselves for a moment; then kill them."""
        deadline = monotonic() + EXIT_TIMEOUT_SECONDS
        for process in processes:
            process.request_exit()
        for process in processes:
            process.wait(deadline - monotonic())
            self._terminate(process)

    def _replace(self, process: HandlerProcess) -> str:
        """Terminate a process, and start another for the next event; return how it ended."""
        ending = self._terminate(process)
        with self._changed:
            if not (self._idle or self._starting or self._is_closed):
                self._start_in_background()
        return ending

    def _terminate(self, process: HandlerProcess) -> str:
        with self._changed:
            self._all.discard(process)
        return process.terminate()

    def _start_in_background(self) -> None:
        """Start a process in a thread, so that a waiting caller can time out. The caller holds the lock."""
        self._starting += 1
        threading.Thread(target=self._add, name="handler-process", daemon=True).start()

    def _add(self) -> None:
        try:
            process, _handlers = self._start_process()
        except HandlerProcessError as error:
            with self._changed:
                self._starting -= 1
                self._last_failure = (monotonic() + RESTART_DELAY_SECONDS, f"MELDWATCH_HANDLERS: {error}")
                self._changed.notify_all()
        else:
            self._release(process, is_new=True)

    def _start_process(self) -> tuple[HandlerProcess, tuple[Handler, ...]]:
        """Start a process, and return it with its handlers.

        Raises:
            HandlerProcessError: If it cannot be started, or a module cannot be imported.
        """
        try:
            process = HandlerProcess(self._command)
        except OSError as error:
            raise HandlerProcessError(f"no process can be started ({error.strerror})") from None
        with self._changed:
            self._all.add(process)
            if self._is_closed:
                process.kill()
        try:
            answer = process.request(self._load_request.model_dump_json(), self._load_seconds)
            loaded = LoadHandlersResponse.model_validate_json(answer)
        except HandlerTimeoutError:
            self._terminate(process)
            raise HandlerProcessError(f"its modules were not imported within {self._load_seconds:g} s") from None
        except (HandlerExitedError, ValidationError):
            ending = self._terminate(process)
            raise HandlerProcessError(f"the process that imports its modules ended ({ending})") from None
        if loaded.problem is not None:
            self._terminate(process)
            raise HandlerProcessError(loaded.problem)
        return process, loaded.handlers


def _to_push_result(result: HandlerResult) -> PushResult:
    if not result.is_called:
        return PushResult(detail=clean_text(result.text or ""), is_local_failure=True)
    if result.error is None:
        return PushResult()
    return PushResult(
        detail=f"the handler raised {clean_text(result.error)}",
        response=response_excerpt((result.text or "").encode()),
    )
