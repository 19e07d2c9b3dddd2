"""A host: the process that a worker runs handlers in, ``python -m meldwatch.process.handler_main``. It imports them and waits.

What it is told comes in on its standard input, a socket, one line for each message (``schemas/handler_protocol.py``), and what
it answers goes out there. A handler finds nothing of it: it reads from nowhere, and what it prints goes to the log.
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

from meldwatch.handlers import Mark, declared_in, mark_of
from runtime import logs
from runtime.errors import HandlerError
from runtime.security.lenient_json import clean
from schemas.events import EVENTS
from schemas.handler_protocol import Greeting, Handler, HandlerResult, Roll, Task

LEAVE_SECONDS = 2.0
"""A host that has nothing to do may take so long to end, once the worker has hung up."""

OVERTIME_SECONDS = 2.0
"""How much later than the worker, which may have died, a host ends itself where a handler takes too long."""

LONGEST_TEXT = 900
MOST_FRAMES = 20

log = logs.get("meldwatch.process.handler_main")

Function = Callable[[Any], object]


def main() -> None:
    """Run handlers until the worker hangs up."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        # The worker is told as well, and ends this process when it is time. To ignore a signal would be inherited by
        # what a handler starts; this is not.
        signal.signal(signum, lambda _signum, _frame: None)
    line = Line(_own_socket())
    greeting = Greeting.model_validate_json(line.read())
    logs.configure(greeting.log_format)
    # Behind what is imported already, so a module of the user's takes the place of none of ours.
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - as Python itself has it
    try:
        functions = load(greeting.modules)
    except HandlerError as error:
        line.write(Roll(problem=clean(str(error))).model_dump_json())
        return
    line.write(Roll(handlers=tuple(_told(name, function) for name, function in functions.items())).model_dump_json())
    with asyncio.Runner() as runner:
        while task := line.read():
            line.write(perform(Task.model_validate_json(task), functions, runner).model_dump_json())


class Line:
    """The line to the worker. When that hangs up, by dying too, nothing here goes on.

    Args:
        link: The socket.
    """

    def __init__(self, link: socket.socket) -> None:
        self._link = link
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._is_busy = False
        threading.Thread(target=self._listen, name="line", daemon=True).start()

    def read(self) -> bytes:
        """Return what comes next; nothing where the worker has hung up."""
        got = self._lines.get()
        self._is_busy = got != b""
        return got

    def write(self, text: str) -> None:
        """Answer. A worker that is gone hears nothing, and that is noticed where it is listened for."""
        self._is_busy = False
        with suppress(OSError):
            self._link.sendall(text.encode() + b"\n")

    def _listen(self) -> None:
        with suppress(OSError), self._link.makefile("rb") as lines:
            for each in lines:
                self._lines.put(each)
        is_busy = self._is_busy
        self._lines.put(b"")
        if not is_busy:
            time.sleep(LEAVE_SECONDS)
        # With all that handlers may have started; a host has its process group to itself.
        os.killpg(os.getpid(), signal.SIGKILL)


def load(modules: Iterable[str]) -> dict[str, Function]:
    """Import modules, and return their handlers by name.

    Raises:
        HandlerError: Where a module cannot be imported, or has no handler, or one that nobody would call.
    """
    functions: dict[str, Function] = {}
    for name in modules:
        module = _imported(name)
        found = {_name_of(value): value for value in vars(module).values() if mark_of(value) is not None}
        declared = [f"{module.__name__}.{each}" for each in declared_in(module)]
        for each in declared:
            if declared.count(each) > 1:
                raise HandlerError(f"{each} is declared twice: the second takes the place of the first.")
            if each not in found:
                raise HandlerError(
                    f"{each} is a handler, but its name leads to something else. A decorator above @on must"
                    " keep what it wraps (functools.wraps)."
                )
        if not found:
            raise HandlerError(f"{name} has no handler: no function in it bears @on(...).")
        functions |= found
    return functions


def perform(task: Task, functions: Mapping[str, Function], runner: asyncio.Runner) -> HandlerResult:
    """Call a handler with an event, and return what came of it."""
    function = functions.get(task.name)
    mark = mark_of(function)
    if function is None or mark is None:
        return HandlerResult(
            is_called=False, text=f"{task.name} is in none of the modules any more: restart the workers"
        )
    try:
        event = _event(task.event)
    except (ValueError, KeyError) as error:
        return HandlerResult(is_called=False, text=f"this version does not know such an event ({type(error).__name__})")
    faulthandler.dump_traceback_later(mark.seconds + OVERTIME_SECONDS, exit=True, file=2)
    try:
        result = function(event)
        if inspect.isawaitable(result):
            # One loop for all calls: what a module keeps open on it, such as an HTTP client, lives on.
            runner.run(_awaited(result))
    except BaseException as error:  # noqa: BLE001 - whatever it is, exits included, it is the handler's failure
        log.warning("handler raised", handler=task.name, error=type(error).__name__, frames=_frames(error))
        return HandlerResult(error=clean(type(error).__name__[:100]), text=clean(_told_of(error, function)))
    finally:
        faulthandler.cancel_dump_traceback_later()
    return HandlerResult()


def _own_socket() -> socket.socket:
    """Return standard input as the socket that it is, and leave nothing in its place; what is printed goes to the log.

    On the level of descriptors: what a handler starts has the same ones.
    """
    link = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return link


def _imported(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")) or name.endswith(".py"):
        raise HandlerError(f"{clean(name[:100])!r} is no name of a module, such as my_handlers or package.handlers")
    try:
        return importlib.import_module(name)
    except HandlerError as error:
        raise HandlerError(f"{name}: {error}") from None
    except BaseException as error:  # noqa: BLE001 - whatever it is, exits included, it cannot be imported
        raise HandlerError(f"{name} cannot be imported: {type(error).__name__}: {_text_of(error)}") from None


def _told(name: str, function: Function) -> Handler:
    mark = mark_of(function)
    assert isinstance(mark, Mark)
    return Handler(name=name, types=mark.types, seconds=mark.seconds)


def _name_of(function: object) -> str:
    return f"{function.__module__}.{function.__qualname__}"  # type: ignore[attr-defined]


def _event(text: str) -> object:
    """Return the event in the shape of its type; raise where this process is too old to know it."""
    document = json.loads(text)
    return EVENTS[document["type"]].model_validate(document)


async def _awaited(result: Awaitable[object]) -> object:
    return await result


def _told_of(error: BaseException, function: Function) -> str:
    """Return an error in its own words, with the place in the handler's module where it came from."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if code is not None and frame.filename == code.co_filename]
    return _text_of(error) + (f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else "")


def _frames(error: BaseException) -> list[str]:
    """Return where an error was raised, and who called whom: what a person mends it by, without any value."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    return [f"{frame.filename}, line {frame.lineno}, in {frame.name}" for frame in frames[-MOST_FRAMES:]]


def _text_of(error: BaseException) -> str:
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an error that cannot even say what it is
        text = "(it has no words)"
    return " ".join(text[:LONGEST_TEXT].split())


if __name__ == "__main__":
    main()
