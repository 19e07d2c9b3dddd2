"""Hosts: the way to handlers in Python. They run in processes beside the worker, each busy with one event at a time.

What hangs, even where no thread could be interrupted, is ended with its process; what crashes takes nothing along. A
process stays for the next event, so one that is there already is called within milliseconds.
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
"""Who waits for longer until one of the processes is free has another one started."""

LOAD_TIMEOUT_SECONDS = 60.0
"""How long the modules may take to be imported."""

ACQUIRE_TIMEOUT_SECONDS = 8.0
"""How long an event waits for a process; with the time that its handler has, that is less than a lease."""

RESTART_DELAY_SECONDS = 5.0
"""Where a process could not be started, no other is for so long."""

IDLE_TIMEOUT_SECONDS = 300.0
"""A process that was not needed for so long, since others were there, is ended."""

EXIT_TIMEOUT_SECONDS = 1.0
"""How long processes that have nothing to do may take to end by themselves."""


class HandlerPool:
    """The processes that run handlers. Threads share one.

    There are at most as many as there are threads that call handlers, hence as ``workers/delivery/concurrency.py`` allows.

    Args:
        command: What starts a process.
        modules: The modules with handlers.
        log_format: How processes write their logs.
        load_seconds: How long the modules may take to be imported.
        ready_seconds: How long an event waits for a process.
        idle_seconds: After how long a process that was not needed is ended.
    """

    def __init__(
        self,
        *,
        command: Sequence[str],
        modules: Sequence[str],
        log_format: str,
        load_seconds: float = LOAD_TIMEOUT_SECONDS,
        ready_seconds: float = ACQUIRE_TIMEOUT_SECONDS,
        idle_seconds: float = IDLE_TIMEOUT_SECONDS,
    ) -> None:
        self._command = command
        self._greeting = LoadHandlersRequest(modules=tuple(modules), log_format=log_format)
        self._load_seconds = load_seconds
        self._ready_seconds = ready_seconds
        self._idle_seconds = idle_seconds
        self._handlers: dict[str, Handler] = {}
        self._changed = threading.Condition()
        self._idle: dict[HandlerProcess, float] = {}
        self._all: set[HandlerProcess] = set()
        self._starting = 0
        self._waiting = 0
        self._broken: tuple[float, str] | None = None
        self._is_closed = False

    def load(self) -> tuple[Handler, ...]:
        """Start a first process, and return the handlers that its modules have; without modules there is neither.

        Raises:
            SettingsError: Where a module cannot be imported, or has no handler.
        """
        if not self._greeting.modules:
            return ()
        try:
            host, handlers = self._start()
        except HandlerProcessError as error:
            raise SettingsError(f"MELDWATCH_HANDLERS: {error}") from None
        self._handlers = {handler.name: handler for handler in handlers}
        self._give_back(host)
        return handlers

    def run(self, name: str, body: bytes) -> PushResult:
        """Call a handler with an event. Never raises for what a handler does."""
        handler = self._handlers.get(name)
        if handler is None:
            return PushResult(
                detail=f"no handler {name} is there: bring it back, with its module in MELDWATCH_HANDLERS of every"
                f" worker, or remove its subscription (meldwatch subscriptions remove {name})",
                is_local_failure=True,
            )
        try:
            host = self._take()
        except HandlerProcessError as error:
            return PushResult(detail=str(error), is_local_failure=True, is_cancelled=self._is_closed)
        task = HandlerCall(name=name, event=body.decode()).model_dump_json()
        try:
            outcome = HandlerResult.model_validate_json(host.request(task, handler.seconds))
        except HandlerTimeoutError:
            self._replace(host)
            return PushResult(detail=f"the handler took longer than {handler.seconds:g} s, and was cut off")
        except (HandlerExitedError, ValidationError):
            how = self._replace(host)
            return PushResult(detail=f"the handler's process ended ({how})", is_cancelled=self._is_closed)
        self._give_back(host)
        return _receipt(outcome)

    def close(self) -> None:
        """End all processes: those that have nothing to do as programs end, those that run a handler at once."""
        with self._changed:
            self._is_closed = True
            idle = list(self._idle)
            busy = self._all.difference(idle)
            self._idle.clear()
            self._changed.notify_all()
        for host in busy:
            host.kill()
        self._dismiss(idle)

    def _take(self) -> HandlerProcess:
        """Return a process that is ready, and have one started where none is.

        Raises:
            HandlerProcessError: Where none can be started, or none is ready in time. What was begun goes on.
        """
        began = monotonic()
        with self._changed:
            self._waiting += 1
            try:
                while (host := self._next()) is None:
                    now = monotonic()
                    if problem := self._problem_at(now, waited=now - began):
                        raise HandlerProcessError(problem)
                    until = began + (BUSY_WAIT_SECONDS if self._all else 0.0)
                    if now >= until:
                        until = began + self._ready_seconds
                        if self._starting < self._waiting:
                            self._begin()
                    self._changed.wait(until - now)
                return host
            finally:
                self._waiting -= 1

    def _problem_at(self, now: float, *, waited: float) -> str | None:
        """Return why there is no use in waiting for a process."""
        if self._is_closed:
            return "the worker ends"
        if self._broken is not None and now < self._broken[0]:
            return self._broken[1]
        if waited >= self._ready_seconds:
            return f"no process for handlers was ready within {self._ready_seconds:g} s"
        return None

    def _next(self) -> HandlerProcess | None:
        """Return the process that was used last, so that those too many are not used; one that has died is none."""
        while self._idle:
            host, _since = self._idle.popitem()
            if host.is_alive:
                return host
            self._end(host)
        return None

    def _give_back(self, host: HandlerProcess, *, is_new: bool = False) -> None:
        """Keep a process for the next event, and end those that are kept in vain."""
        with self._changed:
            self._starting -= is_new
            now = self._idle[host] = monotonic()
            is_spare = {each: self._is_closed or since < now - self._idle_seconds for each, since in self._idle.items()}
            self._idle = {each: since for each, since in self._idle.items() if not is_spare[each]}
            self._changed.notify_all()
        self._dismiss([each for each, is_so in is_spare.items() if is_so])

    def _dismiss(self, spare: Sequence[HandlerProcess]) -> None:
        """Have processes that have nothing to do end by themselves, for a moment; then end them."""
        deadline = monotonic() + EXIT_TIMEOUT_SECONDS
        for host in spare:
            host.request_exit()
        for host in spare:
            host.wait(deadline - monotonic())
            self._end(host)

    def _replace(self, host: HandlerProcess) -> str:
        """End a process, and have another started for the next event; return how it ended."""
        how = self._end(host)
        with self._changed:
            if not (self._idle or self._starting or self._is_closed):
                self._begin()
        return how

    def _end(self, host: HandlerProcess) -> str:
        with self._changed:
            self._all.discard(host)
        return host.terminate()

    def _begin(self) -> None:
        """Have a thread start a process: who waits for it need not wait to its end. The lock is held."""
        self._starting += 1
        threading.Thread(target=self._add, name="host", daemon=True).start()

    def _add(self) -> None:
        try:
            host, _handlers = self._start()
        except HandlerProcessError as error:
            with self._changed:
                self._starting -= 1
                self._broken = (monotonic() + RESTART_DELAY_SECONDS, f"MELDWATCH_HANDLERS: {error}")
                self._changed.notify_all()
        else:
            self._give_back(host, is_new=True)

    def _start(self) -> tuple[HandlerProcess, tuple[Handler, ...]]:
        """Start a process, and return it with its handlers.

        Raises:
            HandlerProcessError: Where there is none, or a module is not as it should be.
        """
        try:
            host = HandlerProcess(self._command)
        except OSError as error:
            raise HandlerProcessError(f"no process can be started ({error.strerror})") from None
        with self._changed:
            self._all.add(host)
            if self._is_closed:
                host.kill()
        try:
            roll = LoadHandlersResponse.model_validate_json(
                host.request(self._greeting.model_dump_json(), self._load_seconds)
            )
        except HandlerTimeoutError:
            self._end(host)
            raise HandlerProcessError(f"its modules were not imported within {self._load_seconds:g} s") from None
        except (HandlerExitedError, ValidationError):
            raise HandlerProcessError(f"the process that imports its modules ended ({self._end(host)})") from None
        if roll.problem is not None:
            self._end(host)
            raise HandlerProcessError(roll.problem)
        return host, roll.handlers


def _receipt(outcome: HandlerResult) -> PushResult:
    if not outcome.is_called:
        return PushResult(detail=clean_text(outcome.text or ""), is_local_failure=True)
    if outcome.error is None:
        return PushResult()
    return PushResult(
        detail=f"the handler raised {clean_text(outcome.error)}",
        response=response_excerpt((outcome.text or "").encode()),
    )
