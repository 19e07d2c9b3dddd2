"""Handlers in their own process: arguments, errors, output, signals, and errors of modules."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import SettingsError
from runtime.handlers.process_pool import HandlerPool
from schemas.handler_protocol import Handler
from schemas.push import PushResult
from tests.support.polling import eventually
from tests.support.processes.handler_processes import command_in, event, handler_pool_in

HANDLERS = """
import asyncio, contextlib, json, os, pathlib, subprocess, sys, threading, time, types
from meldwatch.handlers import Event, StatusChangedEvent, on

def keep(value):
    pathlib.Path("kept").write_text(json.dumps(value))

@on("connection.status_changed")
def typed(event: StatusChangedEvent) -> None:
    keep([type(event).__name__, event.data.current.status, event.model_dump(mode="json")])

locks = []

@on()
async def later(event):
    # A lock is bound to the loop that it was first waited on.
    locks.append(asyncio.Lock()) if not locks else None
    async with asyncio.timeout(5):
        await locks[0].acquire()
        asyncio.get_running_loop().call_later(0.01, locks[0].release)
        await locks[0].acquire()
        locks[0].release()
    keep("awaited")

@on()
def hidden(event):
    return later(event)

@on()
def raises(event):
    deeper({"password": "hunter2"})

def deeper(values):
    raise ValueError("it went\\nwrong \\0 \\ud800 for access-sandbox-0001 " + 2000 * "x")

class Mute(Exception):
    def __str__(self):
        raise RuntimeError

@on()
def mute(event):
    raise Mute

@on()
def leaves(event):
    sys.exit("enough")

@on()
def talks(event):
    print("printed by a handler")
    os.write(1, b"written by a handler\\n")
    subprocess.run(["echo", "echoed for a handler"], check=True)
    keep([sys.stdin.read(), os.read(0, 10).decode()])

@on()
def changes(event):
    os.chdir("/")
    sys.stdout = None
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the module above."""
    folder = tmp_path_factory.mktemp("handlers")
    (folder / "mine.py").write_text(HANDLERS)
    return folder


@pytest.fixture(scope="module")
def pool(folder: Path) -> Iterator[HandlerPool]:
    """Run the handlers in processes."""
    with handler_pool_in(folder, "mine", acquire_seconds=60) as pool:
        pool.start()
        yield pool


def read_kept(folder: Path) -> object:
    return json.loads((folder / "kept").read_text())


def test_a_handler_gets_a_typed_event(pool: HandlerPool, folder: Path) -> None:
    """Event and data have the models of the type; the values are those that are pushed."""
    result = pool.run("mine.typed", event())

    assert result == PushResult()
    assert read_kept(folder) == ["StatusChangedEvent", "ACTIVE", json.loads(event())]


@pytest.mark.parametrize("newer", [{"type": "connection.sold"}, {"data": {"anything": 1}}])
def test_an_event_of_a_newer_version_stays_pending(pool: HandlerPool, newer: dict[str, Any]) -> None:
    """During a rolling update, an old worker does not blame the handler for an unknown event type."""
    result = pool.run("mine.later", event(**newer))

    assert (result.is_local_failure, result.is_acknowledged) == (True, False)
    assert "this version does not know the event type" in str(result.detail)


@pytest.mark.parametrize("name", ["mine.later", "mine.hidden"])
def test_a_coroutine_is_awaited(pool: HandlerPool, folder: Path, name: str) -> None:
    """Also if a function returns it; all events run on one event loop, so a module can keep its locks."""
    results = [pool.run(name, event()) for _ in range(2)]

    assert (results, read_kept(folder)) == ([PushResult(), PushResult()], "awaited")


def test_an_error_is_reported_in_short(pool: HandlerPool) -> None:
    """Type, message and line; no value of a variable, no credential, no character that cannot be stored."""
    result = pool.run("mine.raises", event())

    assert (result.detail, result.is_local_failure, result.status) == ("the handler raised ValueError", False, None)
    assert str(result.response).startswith("it went wrong \ufffd \ufffd for *** xxx")
    assert re.search(r"xxx \(mine\.py, line \d+\)$", str(result.response))
    assert len(str(result.response).encode()) <= 1024
    assert "hunter2" not in str(result)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("mine.mute", "Mute", "(no message)"),
        ("mine.leaves", "SystemExit", "enough"),
    ],
)
def test_any_exception_is_a_failure(pool: HandlerPool, name: str, error: str, words: str) -> None:
    """The process continues to run."""
    before = set(pool._all)
    result = pool.run(name, event())

    assert result.detail == f"the handler raised {error}"
    assert str(result.response).startswith(f"{words} (mine.py, line ")
    assert pool._all == before


def test_output_of_a_handler_goes_to_stderr(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It does not disturb the protocol; standard input is empty."""
    with handler_pool_in(folder, "mine") as pool:
        pool.start()
        result = pool.run("mine.talks", event())

    printed = capfd.readouterr()
    assert (result, read_kept(folder)) == (PushResult(), ["", ""])
    assert printed.out == ""
    assert [line for line in printed.err.splitlines() if "handler" in line] == [
        "printed by a handler",
        "written by a handler",
        "echoed for a handler",
    ]


def test_a_handler_may_change_its_process(folder: Path) -> None:
    """After a change of its working directory or its output, the next event arrives all the same."""
    with handler_pool_in(folder, "mine") as pool:
        pool.start()

        assert [pool.run("mine.changes", event()) for _ in range(2)] == [PushResult(), PushResult()]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_handler_processes_ignore_signals(folder: Path, signum: signal.Signals) -> None:
    """A supervisor may send signals to the whole group; only the worker ends a handler process."""
    with handler_pool_in(folder, "mine") as pool:
        pool.start()
        (process,) = pool._all
        os.kill(process._process.pid, signum)

        assert pool.run("mine.typed", event()) == PushResult()
        assert pool._all == {process}


PARENT = """
import sys, pathlib, threading
from tests.support.processes.handler_processes import event, handler_pool_in
with handler_pool_in(pathlib.Path(sys.argv[1]), "mine") as pool:
    pool.start()
    threading.Thread(target=pool.run, args=("mine.waits", event()), daemon=True).start()
    threading.Event().wait()
"""
WAITS = """
import os, pathlib, subprocess, time
from meldwatch.handlers import on

@on()
def waits(event):
    child = subprocess.Popen(["sleep", "60"])
    pathlib.Path("pids").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(60)
"""


def test_handler_processes_end_with_the_worker(tmp_path: Path) -> None:
    """Also after SIGKILL in the middle of a handler, with its child processes: nothing runs beside the next attempt."""
    (tmp_path / "mine.py").write_text(WAITS)
    worker = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)], cwd=Path(__file__).parents[3])
    pids = eventually(lambda: (tmp_path / "pids").exists() and (tmp_path / "pids").read_text(), 60).split()
    worker.kill()
    worker.wait()

    eventually(lambda: not any(is_running(pid) for pid in pids), message="the end of both")


def is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def load(folder: Path, *modules: str, **files: str) -> tuple[Handler, ...]:
    for name, text in files.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text("from meldwatch.handlers import on\n" + text)
    with handler_pool_in(folder, *modules) as pool:
        return pool.start()


def test_handlers_are_found_in_modules_and_packages(tmp_path: Path) -> None:
    """Each once, with the name of the module that defines it."""
    handlers = load(
        tmp_path,
        "one",
        "package",
        one="from package.inner import kept\nimport functools\n@functools.lru_cache\n@on(seconds=2)\ndef own(e): ...",
        **{
            "package/__init__": "from .inner import kept",
            "package/inner": "@on('connection.status_changed')\ndef kept(event): ...",
        },
    )

    assert {(handler.name, handler.types, handler.seconds) for handler in handlers} == {
        ("one.own", (), 2),
        ("package.inner.kept", ("connection.status_changed",), 20),
    }
    assert len(handlers) == 2


def test_a_file_with_the_name_of_a_meldwatch_module_is_harmless(tmp_path: Path) -> None:
    """The working directory comes after the program's own modules and before installed packages."""
    (tmp_path / "schemas").mkdir()
    (tmp_path / "schemas" / "__init__.py").write_text("raise RuntimeError")
    handlers = load(
        tmp_path,
        "mine",
        runtime="raise RuntimeError",
        cloudevents="",
        mine="import cloudevents, os\nassert cloudevents.__file__.startswith(os.getcwd())\n@on()\ndef f(event): ...",
    )

    assert [handler.name for handler in handlers] == ["mine.f"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "mine has no handler"),
        ("import nowhere", "mine cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("raise SystemExit(3)", "mine cannot be imported: SystemExit: 3"),
        ("def f(:", "mine cannot be imported: SyntaxError"),
        ("@on('connection.gone')\ndef f(event): ...", "mine: f: 'connection.gone' is not an event type"),
        ("@on()\ndef f(event): ...\n@on()\ndef f(event): ...", "mine.f is declared twice"),
        ("@on()\ndef f(event): ...\nf = None", "mine.f is a handler, but something else has its name"),
        (
            "def plain(f): return lambda event: f(event)\n@plain\n@on()\ndef f(event): ...\n@on()\ndef g(event): ...",
            "functools.wraps",
        ),
    ],
)
def test_an_invalid_module_is_reported_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    """When the worker starts; the line names the module, the function and the fix."""
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, "mine", mine=text)

    assert str(caught.value).startswith("MELDWATCH_HANDLERS: mine")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere", "mine.py", "./mine", "mine:f", "a b", ".mine"])
def test_an_invalid_module_name_is_reported_in_one_line(tmp_path: Path, name: str) -> None:
    """For example the name of a file."""
    with pytest.raises(SettingsError, match="MELDWATCH_HANDLERS: ") as caught:
        load(tmp_path, name, mine="@on()\ndef f(event): ...")

    assert name in str(caught.value)


def test_the_program_ends_when_started_by_hand(folder: Path) -> None:
    """Its standard input is not a worker."""
    ended = subprocess.run(command_in(folder), stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)

    assert ended.returncode != 0
