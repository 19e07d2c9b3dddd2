"""Main module of a handler process: imports the handler modules, and calls handlers with events from a worker.

The worker starts it with ``python -m meldwatch.process.handler_main``. Its standard input is a socket, over which they
exchange one line for each message (``schemas/handler_protocol.py``). A handler sees nothing of that socket: it reads
from an empty standard input, and what it prints goes to the log.
"""

import asyncio
import faulthandler
import importlib
import inspect
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from meldwatch.handlers import HandlerDeclaration, get_declaration, list_declared_handlers
from runtime import logs
from runtime.errors import HandlerError
from runtime.security.lenient_json import clean_text
from schemas.events import EVENT_MODELS
from schemas.handler_protocol import Handler, HandlerCall, HandlerResult, LoadHandlersRequest, LoadHandlersResponse

IDLE_EXIT_SECONDS = 2.0
"""How long an idle process may take to end by itself after the worker has closed the connection."""

TIMEOUT_MARGIN_SECONDS = 2.0
"""How much later than the worker, which may have died, the process ends itself if a handler exceeds its timeout."""

MAX_ERROR_CHARACTERS = 900
MAX_FRAMES = 20

log = logs.get_logger("meldwatch.process.handler_main")

Function = Callable[[Any], object]


def main() -> None:
    """Call handlers until the worker closes the connection."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        # The worker gets the signal as well, and ends this process when it is time. The programs that a handler starts
        # would inherit SIG_IGN; they do not inherit this function.
        signal.signal(signum, lambda _signum, _frame: None)
    connection = WorkerConnection(_take_over_stdin())
    request = LoadHandlersRequest.model_validate_json(connection.read())
    logs.configure(request.log_format)
    # Our modules are imported already, so that a module of the user cannot replace one of them.
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - as Python itself does it
    try:
        functions = import_handlers(request.modules)
    except HandlerError as error:
        connection.write(LoadHandlersResponse(problem=clean_text(str(error))).model_dump_json())
        return
    connection.write(
        LoadHandlersResponse(
            handlers=tuple(_describe(name, function) for name, function in functions.items())
        ).model_dump_json()
    )
    with asyncio.Runner() as runner:
        while line := connection.read():
            connection.write(call_handler(HandlerCall.model_validate_json(line), functions, runner).model_dump_json())


class WorkerConnection:
    """The connection to the worker. When the worker closes it, or dies, this process ends.

    Args:
        worker_socket: The socket.
    """

    def __init__(self, worker_socket: socket.socket) -> None:
        self._socket = worker_socket
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._is_busy = False
        threading.Thread(target=self._listen, name="worker-connection", daemon=True).start()

    def read(self) -> bytes:
        """Return the next message; nothing if the worker has closed the connection."""
        line = self._lines.get()
        self._is_busy = line != b""
        return line

    def write(self, text: str) -> None:
        """Send a message. If the worker is gone, the reading thread notices it."""
        self._is_busy = False
        with suppress(OSError):
            self._socket.sendall(text.encode() + b"\n")

    def _listen(self) -> None:
        with suppress(OSError), self._socket.makefile("rb") as lines:
            for line in lines:
                self._lines.put(line)
        is_busy = self._is_busy
        self._lines.put(b"")
        if not is_busy:
            time.sleep(IDLE_EXIT_SECONDS)
        # Ends the programs that handlers have started as well: this process has its own process group.
        os.killpg(os.getpid(), signal.SIGKILL)


def import_handlers(modules: Iterable[str]) -> dict[str, Function]:
    """Import modules, and return their handlers by name.

    Raises:
        HandlerError: If a module cannot be imported, has no handler, or has a handler that would never be called.
    """
    functions: dict[str, Function] = {}
    for name in modules:
        module = _import_module(name)
        found = {_get_name(value): value for value in vars(module).values() if get_declaration(value) is not None}
        declared = [f"{module.__name__}.{each}" for each in list_declared_handlers(module)]
        for each in declared:
            if declared.count(each) > 1:
                raise HandlerError(f"{each} is declared twice: the second replaces the first.")
            if each not in found:
                raise HandlerError(
                    f"{each} is a handler, but something else has its name in the module. A decorator above @on must"
                    " use functools.wraps."
                )
        if not found:
            raise HandlerError(f"{name} has no handler: no function in it is decorated with @on(...).")
        functions |= found
    return functions


def call_handler(call: HandlerCall, functions: Mapping[str, Function], runner: asyncio.Runner) -> HandlerResult:
    """Call a handler with an event; return its result, or the exception that it raised."""
    function = functions.get(call.name)
    declaration = get_declaration(function)
    if function is None or declaration is None:
        return HandlerResult(
            is_called=False, text=f"{call.name} is no longer in any of the modules: restart the workers"
        )
    try:
        event = _parse_event(call.event)
    except (ValueError, KeyError) as error:
        return HandlerResult(
            is_called=False, text=f"this version does not know the event type ({type(error).__name__})"
        )
    faulthandler.dump_traceback_later(declaration.seconds + TIMEOUT_MARGIN_SECONDS, exit=True, file=2)
    try:
        result = function(event)
        if inspect.isawaitable(result):
            # One event loop for all calls: what a module keeps open, such as an HTTP client, stays usable.
            runner.run(_await(result))
    except BaseException as error:  # noqa: BLE001 - any exception, exits included, is the handler's failure
        log.warning("handler raised", handler=call.name, error=type(error).__name__, frames=_format_frames(error))
        return HandlerResult(
            error=clean_text(type(error).__name__[:100]), text=clean_text(_describe_error(error, function))
        )
    finally:
        faulthandler.cancel_dump_traceback_later()
    return HandlerResult()


def _take_over_stdin() -> socket.socket:
    """Return the socket of standard input; replace standard input by nothing, and standard output by the log.

    File descriptors are replaced, since the programs that a handler starts inherit them.
    """
    worker_socket = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return worker_socket


def _import_module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")) or name.endswith(".py"):
        raise HandlerError(
            f"{clean_text(name[:100])!r} is not the name of a module, such as my_handlers or package.handlers"
        )
    try:
        return importlib.import_module(name)
    except HandlerError as error:
        raise HandlerError(f"{name}: {error}") from None
    except BaseException as error:  # noqa: BLE001 - any exception, exits included, means that the import failed
        raise HandlerError(f"{name} cannot be imported: {type(error).__name__}: {_get_message(error)}") from None


def _describe(name: str, function: Function) -> Handler:
    declaration = get_declaration(function)
    assert isinstance(declaration, HandlerDeclaration)
    return Handler(name=name, types=declaration.types, seconds=declaration.seconds)


def _get_name(function: object) -> str:
    return f"{function.__module__}.{function.__qualname__}"  # type: ignore[attr-defined]


def _parse_event(text: str) -> object:
    """Return the event as the model of its type; raise ``KeyError`` or ``ValueError`` if it is unknown here."""
    document = json.loads(text)
    return EVENT_MODELS[document["type"]].model_validate(document)


async def _await(result: Awaitable[object]) -> object:
    return await result


def _describe_error(error: BaseException, function: Function) -> str:
    """Return the message of an exception, with the line in the handler's module where it was raised."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if code is not None and frame.filename == code.co_filename]
    return _get_message(error) + (f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else "")


def _format_frames(error: BaseException) -> list[str]:
    """Return the stack of an exception without any values: enough to find the bug."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    return [f"{frame.filename}, line {frame.lineno}, in {frame.name}" for frame in frames[-MAX_FRAMES:]]


def _get_message(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an exception whose __str__ fails
        text = "(no message)"
    return " ".join(text[:MAX_ERROR_CHARACTERS].split())


if __name__ == "__main__":
    main()
