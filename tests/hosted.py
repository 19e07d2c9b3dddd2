"""Handlers for tests: modules of a user's, and the real processes that run them."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtime.hosts import Hosts
from schemas.events import Event
from tests.service import rows

IN_FOLDER = (
    "import os, runpy, sys; os.chdir(sys.argv.pop()); runpy.run_module('meldwatch.hosting', run_name='__main__')"
)


def command_in(folder: Path) -> list[str]:
    """Return what starts a host as a worker would whose working directory is this one."""
    return [sys.executable, "-P", "-u", "-c", IN_FOLDER, str(folder)]


@contextmanager
def hosts_in(folder: Path, *modules: str, **options: Any) -> Iterator[Hosts]:
    """Give what runs the handlers of modules in a folder."""
    usual: dict[str, Any] = {"command": command_in(folder), "modules": modules, "log_format": "json"}
    hosts = Hosts(**{**usual, **options})
    try:
        yield hosts
    finally:
        hosts.close()


def event(position: int = 1, **values: Any) -> bytes:
    """Return an event as it is sent out; with another type, or other fields."""
    document = json.loads(Event.from_row(rows.event(position)).model_dump_json())
    return json.dumps({**document, **values}).encode()
