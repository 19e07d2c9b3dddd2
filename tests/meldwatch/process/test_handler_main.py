"""What a handler may rely on, as the process that runs it has it."""

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
from tests.support.handler_processes import command_in, event, handler_pool_in
from tests.support.polling import eventually

MINE = """
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
    folder = tmp_path_factory.mktemp("hosting")
    (folder / "mine.py").write_text(MINE)
    return folder


@pytest.fixture(scope="module")
def hosts(folder: Path) -> Iterator[HandlerPool]:
    """What runs its handlers."""
    with handler_pool_in(folder, "mine", acquire_seconds=60) as hosts:
        hosts.start()
        yield hosts


def kept(folder: Path) -> object:
    return json.loads((folder / "kept").read_text())


def test_a_handler_gets_the_event_in_the_shape_of_its_type(hosts: HandlerPool, folder: Path) -> None:
    """Down to its data; and it is the same as what is pushed."""
    receipt = hosts.run("mine.typed", event())

    assert receipt == PushResult()
    assert kept(folder) == ["StatusChangedEvent", "ACTIVE", json.loads(event())]


@pytest.mark.parametrize("newer", [{"type": "connection.sold"}, {"data": {"anything": 1}}])
def test_an_event_of_a_newer_version_waits_for_one_that_knows_it(hosts: HandlerPool, newer: dict[str, Any]) -> None:
    """While workers are exchanged one by one, an old one does not blame the handler for it."""
    receipt = hosts.run("mine.later", event(**newer))

    assert (receipt.is_local_failure, receipt.is_acknowledged) == (True, False)
    assert "this version does not know the event type" in str(receipt.detail)


@pytest.mark.parametrize("name", ["mine.later", "mine.hidden"])
def test_a_coroutine_is_awaited(hosts: HandlerPool, folder: Path, name: str) -> None:
    """Also where a function returns one; and what a module keeps open on the loop is of use for the next event."""
    receipts = [hosts.run(name, event()) for _ in range(2)]

    assert (receipts, kept(folder)) == ([PushResult(), PushResult()], "awaited")


def test_an_error_is_told_in_short(hosts: HandlerPool) -> None:
    """Its kind, its words and its place; no value of a variable, no credential, nothing that cannot be stored."""
    receipt = hosts.run("mine.raises", event())

    assert (receipt.detail, receipt.is_local_failure, receipt.status) == ("the handler raised ValueError", False, None)
    assert str(receipt.response).startswith("it went wrong \ufffd \ufffd for *** xxx")
    assert re.search(r"xxx \(mine\.py, line \d+\)$", str(receipt.response))
    assert len(str(receipt.response).encode()) <= 1024
    assert "hunter2" not in str(receipt)


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("mine.mute", "Mute", "(no message)"),
        ("mine.leaves", "SystemExit", "enough"),
    ],
)
def test_whatever_is_raised_is_a_failure(hosts: HandlerPool, name: str, error: str, words: str) -> None:
    """The process goes on."""
    before = set(hosts._all)
    receipt = hosts.run(name, event())

    assert receipt.detail == f"the handler raised {error}"
    assert str(receipt.response).startswith(f"{words} (mine.py, line ")
    assert hosts._all == before


def test_what_a_handler_prints_is_no_answer(
    hosts: HandlerPool, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nor is what it reads a question: it finds nothing there."""
    with handler_pool_in(folder, "mine") as talking:
        talking.start()
        receipt = talking.run("mine.talks", event())

    printed = capfd.readouterr()
    assert (receipt, kept(folder)) == (PushResult(), ["", ""])
    assert printed.out == ""
    assert [line for line in printed.err.splitlines() if "handler" in line] == [
        "printed by a handler",
        "written by a handler",
        "echoed for a handler",
    ]


def test_a_handler_may_change_what_is_its_process_own(folder: Path) -> None:
    """Its folder, its output: the next event comes all the same."""
    with handler_pool_in(folder, "mine") as hosts:
        hosts.start()

        assert [hosts.run("mine.changes", event()) for _ in range(2)] == [PushResult(), PushResult()]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_the_workers_matter(folder: Path, signum: signal.Signals) -> None:
    """A supervisor may send them to everybody; what runs goes on until the worker ends it."""
    with handler_pool_in(folder, "mine") as hosts:
        hosts.start()
        (host,) = hosts._all
        os.kill(host._process.pid, signum)

        assert hosts.run("mine.typed", event()) == PushResult()
        assert hosts._all == {host}


PARENT = """
import sys, pathlib, threading
from tests.support.handler_processes import event, handler_pool_in
with handler_pool_in(pathlib.Path(sys.argv[1]), "mine") as hosts:
    hosts.start()
    threading.Thread(target=hosts.run, args=("mine.waits", event()), daemon=True).start()
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


def test_it_ends_with_the_worker_however_that_ends(tmp_path: Path) -> None:
    """After SIGKILL too, in the midst of a handler, with what that has started: nothing runs on beside the next try."""
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
    with handler_pool_in(folder, *modules) as hosts:
        return hosts.start()


def test_handlers_are_found_where_they_are(tmp_path: Path) -> None:
    """In modules and packages, under the name of the module that has them, wherever else they are known."""
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


def test_a_file_that_is_called_as_one_of_ours_harms_nothing(tmp_path: Path) -> None:
    """The working directory comes behind the program's own modules, and before all that is installed."""
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
    ("text", "said"),
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
def test_what_is_wrong_with_a_module_is_said_in_a_line(tmp_path: Path, text: str, said: str) -> None:
    """When the worker starts: the module, the function, and what to mend."""
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, "mine", mine=text)

    assert str(caught.value).startswith("MELDWATCH_HANDLERS: mine")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere", "mine.py", "./mine", "mine:f", "a b", ".mine"])
def test_a_name_that_is_no_modules_is_said_in_a_line(tmp_path: Path, name: str) -> None:
    """As where a file is meant."""
    with pytest.raises(SettingsError, match="MELDWATCH_HANDLERS: ") as caught:
        load(tmp_path, name, mine="@on()\ndef f(event): ...")

    assert name in str(caught.value)


def test_it_is_no_program_for_people(folder: Path) -> None:
    """Started by hand it ends by itself."""
    ended = subprocess.run(command_in(folder), stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)

    assert ended.returncode != 0
