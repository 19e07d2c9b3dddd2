import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.errors import SettingsError
from runtime.handlers.process_pool import HandlerPool
from schemas.push import PushResult
from tests.support.handler_processes import event, hosts_in
from tests.support.polling import eventually

MINE = """
import os, pathlib, time
from meldwatch.handlers import on

@on()
def takes(event):
    with open("calls", "a") as calls:
        calls.write(f"{os.getpid()}\\n")

@on()
def waits(event):
    pathlib.Path(f"began-{event.position}").touch()
    while not pathlib.Path("gate").exists():
        time.sleep(0.01)

@on(seconds=0.2)
def hangs(event):
    time.sleep(60)

@on()
def dies(event):
    os._exit(3)
"""


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[HandlerPool]:
    """What runs the handlers above."""
    (tmp_path / "mine.py").write_text(MINE)
    with hosts_in(tmp_path, "mine", ready_seconds=60) as hosts:
        hosts.load()
        yield hosts


def callers(folder: Path) -> list[str]:
    """Return the processes that called ``takes``, in order."""
    return (folder / "calls").read_text().split()


def at_once(hosts: HandlerPool, name: str, count: int) -> tuple[list[threading.Thread], list[PushResult]]:
    """Begin several calls; return their threads, and where their receipts will be."""
    receipts: list[PushResult] = []
    threads = [
        threading.Thread(target=lambda number=number: receipts.append(hosts.run(name, event(number))))
        for number in range(1, count + 1)
    ]
    for thread in threads:
        thread.start()
    return threads, receipts


def test_one_process_is_used_again_and_again(hosts: HandlerPool, tmp_path: Path) -> None:
    """What is there already is called; the next event is taken by the same process."""
    receipts = [hosts.run("mine.takes", event(number)) for number in range(1, 4)]

    assert [receipt.is_acknowledged for receipt in receipts] == [True] * 3
    assert len(set(callers(tmp_path))) == 1


def test_as_many_run_as_are_called(hosts: HandlerPool, tmp_path: Path) -> None:
    """One that waits holds up no other: processes are started as they are needed, and kept."""
    threads, receipts = at_once(hosts, "mine.waits", 3)
    eventually(lambda: len(list(tmp_path.glob("began-*"))) == 3, 60, message="three at once")
    (tmp_path / "gate").touch()
    for thread in threads:
        thread.join()

    assert [receipt.is_acknowledged for receipt in receipts] == [True] * 3


def test_one_that_hangs_is_cut(hosts: HandlerPool, tmp_path: Path) -> None:
    """Where no thread could be interrupted: its process is ended, and the next event finds another."""
    hosts.run("mine.takes", event())
    receipt = hosts.run("mine.hangs", event())
    hosts.run("mine.takes", event())

    assert receipt == PushResult(detail="the handler took longer than 0.2 s, and was cut off")
    assert len(set(callers(tmp_path))) == 2


def test_one_that_dies_takes_nothing_along(hosts: HandlerPool, tmp_path: Path) -> None:
    """It failed, and the next event finds another process."""
    receipt = hosts.run("mine.dies", event())

    assert receipt == PushResult(detail="the handler's process ended (exit code 3)")
    assert hosts.run("mine.takes", event()).is_acknowledged


def test_a_process_that_died_idle_is_no_handlers_fault(hosts: HandlerPool, tmp_path: Path) -> None:
    """As where the system lacks memory: it is not used any more."""
    hosts.run("mine.takes", event())
    os.kill(int(callers(tmp_path)[0]), signal.SIGKILL)
    eventually(lambda: not any(host.is_alive for host in hosts._idle), message="the end of the process")

    assert hosts.run("mine.takes", event()).is_acknowledged
    assert len(set(callers(tmp_path))) == 2


@pytest.mark.parametrize("modules", [(), ("mine",)])
def test_a_handler_that_is_gone_is_our_matter(tmp_path: Path, modules: tuple[str, ...]) -> None:
    """Nothing of the three days is lost, and it is said what to do; also where there is no handler at all."""
    (tmp_path / "mine.py").write_text(MINE)
    with hosts_in(tmp_path, *modules) as hosts:
        handlers = hosts.load()
        receipt = hosts.run("mine.gone", event())

    assert len(handlers) == 4 * len(modules)
    assert (receipt.is_local_failure, receipt.is_acknowledged) == (True, False)
    assert "MELDWATCH_HANDLERS" in str(receipt.detail)
    assert "meldwatch subscriptions remove mine.gone" in str(receipt.detail)


def test_a_module_that_was_broken_meanwhile_is_our_matter(hosts: HandlerPool, tmp_path: Path) -> None:
    """New processes find it as it is now; what they say is told, and nobody starts one after the other in vain."""
    (tmp_path / "mine.py").write_text("import nothing_of_this_name")
    hosts.run("mine.dies", event())

    receipts = [hosts.run("mine.takes", event()) for _ in range(2)]

    assert [receipt.is_local_failure for receipt in receipts] == [True, True]
    assert "nothing_of_this_name" in str(receipts[0].detail)
    assert receipts[0] == receipts[1]


def test_a_process_that_takes_long_to_start_is_not_waited_for_too_long(tmp_path: Path) -> None:
    """An event waits less than its lease lasts; the process goes on starting, and is there for the next attempt."""
    wait = "import pathlib, time\nwhile not pathlib.Path('open').exists(): time.sleep(0.01)\n"
    (tmp_path / "mine.py").write_text(MINE)
    with hosts_in(tmp_path, "mine", ready_seconds=0.3) as hosts:
        hosts.load()
        (tmp_path / "mine.py").write_text(wait + MINE)
        hosts.run("mine.dies", event())
        early = hosts.run("mine.takes", event())
        (tmp_path / "open").touch()
        eventually(lambda: hosts._idle, 60, message="a process that is ready")

        assert early == PushResult(detail="no process for handlers was ready within 0.3 s", is_local_failure=True)
        assert hosts.run("mine.takes", event()).is_acknowledged


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import time\ntime.sleep(60)", "its modules were not imported within 1 s"),
        ("import os\nos._exit(9)", "ended (exit code 9)"),
        ("import os\nos.kill(os.getpid(), 11)", "ended (signal 11)"),
        ("import no_such_module", "no_such_module"),
    ],
)
def test_a_module_that_cannot_be_loaded_is_a_setting_to_mend(tmp_path: Path, text: str, said: str) -> None:
    """Whatever it does when it is imported, the worker says so in a line, and goes on to its end."""
    (tmp_path / "broken.py").write_text(text)
    seconds = 1 if "sleep" in text else 60
    with hosts_in(tmp_path, "broken", load_seconds=seconds) as hosts, pytest.raises(SettingsError) as caught:
        hosts.load()

    assert str(caught.value).startswith("MELDWATCH_HANDLERS: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not hosts._all


def test_what_runs_is_ended_when_the_worker_ends(hosts: HandlerPool, tmp_path: Path) -> None:
    """What came of it counts for nothing; and who comes later is told the same."""
    threads, receipts = at_once(hosts, "mine.waits", 1)
    eventually((tmp_path / "began-1").exists, message="a handler at work")
    hosts.close()
    for thread in threads:
        thread.join()
    late = hosts.run("mine.takes", event())

    assert [receipt.is_cancelled for receipt in (*receipts, late)] == [True, True]
    assert not hosts._all


def test_one_that_is_starting_is_ended_as_well(tmp_path: Path) -> None:
    """Nothing is left of a worker that ends while a process imports its modules."""
    (tmp_path / "mine.py").write_text(MINE)
    with hosts_in(tmp_path, "mine", ready_seconds=60) as hosts:
        hosts.load()
        (tmp_path / "mine.py").write_text("import time\ntime.sleep(60)")
        threads, receipts = at_once(hosts, "mine.dies", 1)
        threads[0].join()
        threads, receipts = at_once(hosts, "mine.takes", 1)
        eventually(lambda: hosts._all, message="a process that starts")
        hosts.close()
        threads[0].join()

        eventually(lambda: not hosts._all and not hosts._starting, message="the end of the process")
    assert [receipt.is_cancelled for receipt in receipts] == [True]


def test_idle_processes_end_as_programs_do(tmp_path: Path) -> None:
    """What a module does at the end of a program is done."""
    (tmp_path / "mine.py").write_text(MINE + "import atexit\natexit.register(pathlib.Path('ended').touch)\n")
    with hosts_in(tmp_path, "mine") as hosts:
        hosts.load()

    assert (tmp_path / "ended").exists()


def test_processes_that_are_not_needed_any_more_are_ended(tmp_path: Path) -> None:
    """Only the one that was used last is kept after a while."""
    (tmp_path / "mine.py").write_text(MINE)
    with hosts_in(tmp_path, "mine", ready_seconds=60, idle_seconds=0.0) as hosts:
        hosts.load()
        threads, _receipts = at_once(hosts, "mine.waits", 2)
        eventually(lambda: len(list(tmp_path.glob("began-*"))) == 2, 60, message="two at once")
        (tmp_path / "gate").touch()
        for thread in threads:
            thread.join()
        hosts.run("mine.takes", event())
        hosts.run("mine.takes", event())

        assert len(set(callers(tmp_path))) == 1
        eventually(lambda: len(hosts._all) == 1, message="one process alone")
