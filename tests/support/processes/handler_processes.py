"""Event handlers for tests: scripted ones, and real child processes that run the modules of a folder."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.handlers.process_pool import HandlerPool
from schemas.events import Event
from schemas.push import PushResult
from tests.support import row_factory

ACKNOWLEDGED = PushResult()
IN_FOLDER = (
    "import os, runpy, sys; os.chdir(sys.argv.pop());"
    " runpy.run_module('meldwatch.process.handler_main', run_name='__main__')"
)


def command_in(folder: Path) -> list[str]:
    """Return the command that starts a handler process with this working directory."""
    return [sys.executable, "-P", "-u", "-c", IN_FOLDER, str(folder)]


class ScriptedHandlers:
    """Handlers without a process: they record their calls, and return a scripted result."""

    def __init__(self, result: PushResult = ACKNOWLEDGED, *, only_for: str = "") -> None:
        self.calls: list[tuple[str, bytes]] = []
        self._result = result
        self._only_for = only_for.encode()

    def run(self, name: str, body: bytes) -> PushResult:
        """Record the call, and return the scripted result."""
        self.calls.append((name, body))
        return self._result if self._only_for in body else PushResult()


@contextmanager
def handler_pool_in(folder: Path, *modules: str, **options: Any) -> Iterator[HandlerPool]:
    """Run a pool with the handlers of modules in a folder."""
    usual: dict[str, Any] = {"command": command_in(folder), "modules": modules, "log_format": "json"}
    pool = HandlerPool(**{**usual, **options})
    try:
        yield pool
    finally:
        pool.close()


def event(position: int = 1, **values: Any) -> bytes:
    """Return an event as it is sent, with these fields changed."""
    document = json.loads(Event.from_row(row_factory.event(position)).model_dump_json())
    return json.dumps({**document, **values}).encode()
