import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.errors import SettingsError
from runtime.handlers.process_pool import HandlerPool
from schemas.push import PushResult
from tests.support.polling import eventually
from tests.support.processes.handler_processes import event, handler_pool_in

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
    while not pathlib.Path("continue").exists():
        time.sleep(0.01)

@on(seconds=0.2)
def hangs(event):
    time.sleep(60)

@on()
def dies(event):
    os._exit(3)
"""


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[HandlerPool]:
    """A pool that runs the handlers above."""
    (tmp_path / "mine.py").write_text(MINE)
    with handler_pool_in(tmp_path, "mine", acquire_seconds=60) as pool:
        pool.start()
        yield pool


def callers(folder: Path) -> list[str]:
    """Return the processes that called ``takes``, in order."""
    return (folder / "calls").read_text().split()


def run_concurrently(pool: HandlerPool, name: str, count: int) -> tuple[list[threading.Thread], list[PushResult]]:
    """Begin several calls; return their threads, and the list that their results are added to."""
    results: list[PushResult] = []
    threads = [
        threading.Thread(target=lambda number=number: results.append(pool.run(name, event(number))))
        for number in range(1, count + 1)
    ]
    for thread in threads:
        thread.start()
    return threads, results


def test_one_process_is_used_again_and_again(pool: HandlerPool, tmp_path: Path) -> None:
    """Successive events are handled by the same process."""
    results = [pool.run("mine.takes", event(number)) for number in range(1, 4)]

    assert [result.is_acknowledged for result in results] == [True] * 3
    assert len(set(callers(tmp_path))) == 1


def test_concurrent_calls_have_a_process_each(pool: HandlerPool, tmp_path: Path) -> None:
    """A handler that waits delays no other: processes are started as needed, and kept."""
    threads, results = run_concurrently(pool, "mine.waits", 3)
    eventually(lambda: len(list(tmp_path.glob("began-*"))) == 3, 60, message="three at once")
    (tmp_path / "continue").touch()
    for thread in threads:
        thread.join()

    assert [result.is_acknowledged for result in results] == [True] * 3


def test_a_handler_that_hangs_is_stopped(pool: HandlerPool, tmp_path: Path) -> None:
    """Its process is killed, and the next event gets another."""
    pool.run("mine.takes", event())
    result = pool.run("mine.hangs", event())
    pool.run("mine.takes", event())

    assert result == PushResult(detail="the handler took longer than 0.2 s, and was stopped")
    assert len(set(callers(tmp_path))) == 2


def test_a_crash_affects_no_other_event(pool: HandlerPool, tmp_path: Path) -> None:
    """The attempt fails, and the next event gets another process."""
    result = pool.run("mine.dies", event())

    assert result == PushResult(detail="the handler's process ended (exit code 3)")
    assert pool.run("mine.takes", event()).is_acknowledged


def test_a_process_that_died_while_idle_is_not_used(pool: HandlerPool, tmp_path: Path) -> None:
    """A process that was killed, for example because memory ran out, fails no attempt."""
    pool.run("mine.takes", event())
    os.kill(int(callers(tmp_path)[0]), signal.SIGKILL)
    eventually(lambda: not any(process.is_alive for process in pool._idle), message="the end of the process")

    assert pool.run("mine.takes", event()).is_acknowledged
    assert len(set(callers(tmp_path))) == 2


@pytest.mark.parametrize("modules", [(), ("mine",)])
def test_a_missing_handler_is_a_local_failure(tmp_path: Path, modules: tuple[str, ...]) -> None:
    """It uses up no attempt, and the message says what to do, also without any handler."""
    (tmp_path / "mine.py").write_text(MINE)
    with handler_pool_in(tmp_path, *modules) as pool:
        handlers = pool.start()
        result = pool.run("mine.gone", event())

    assert len(handlers) == 4 * len(modules)
    assert (result.is_local_failure, result.is_acknowledged) == (True, False)
    assert "MELDWATCH_HANDLERS" in str(result.detail)
    assert "meldwatch subscriptions remove mine.gone" in str(result.detail)


def test_a_module_that_breaks_later_is_a_local_failure(pool: HandlerPool, tmp_path: Path) -> None:
    """New processes import the present module; their error is reported, and the next start waits a while."""
    (tmp_path / "mine.py").write_text("import nothing_of_this_name")
    pool.run("mine.dies", event())

    results = [pool.run("mine.takes", event()) for _ in range(2)]

    assert [result.is_local_failure for result in results] == [True, True]
    assert "nothing_of_this_name" in str(results[0].detail)
    assert results[0] == results[1]


def test_an_event_does_not_wait_too_long_for_a_process(tmp_path: Path) -> None:
    """An event waits less than its lease lasts; the start goes on, and the process serves the next attempt."""
    wait = "import pathlib, time\nwhile not pathlib.Path('open').exists(): time.sleep(0.01)\n"
    (tmp_path / "mine.py").write_text(MINE)
    with handler_pool_in(tmp_path, "mine", acquire_seconds=0.3) as pool:
        pool.start()
        (tmp_path / "mine.py").write_text(wait + MINE)
        pool.run("mine.dies", event())
        timed_out = pool.run("mine.takes", event())
        (tmp_path / "open").touch()
        eventually(lambda: pool._idle, 60, message="a process that is ready")

        assert timed_out == PushResult(detail="no handler process was ready within 0.3 s", is_local_failure=True)
        assert pool.run("mine.takes", event()).is_acknowledged


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import time\ntime.sleep(60)", "its modules were not imported within 1 s"),
        ("import os\nos._exit(9)", "ended (exit code 9)"),
        ("import os\nos.kill(os.getpid(), 11)", "ended (signal 11)"),
        ("import no_such_module", "no_such_module"),
    ],
)
def test_a_module_that_cannot_be_imported_is_a_settings_error(tmp_path: Path, text: str, message: str) -> None:
    """However the import fails, the worker reports it in one line, and ends the process."""
    (tmp_path / "broken.py").write_text(text)
    seconds = 1 if "sleep" in text else 60
    with handler_pool_in(tmp_path, "broken", load_seconds=seconds) as pool, pytest.raises(SettingsError) as caught:
        pool.start()

    assert str(caught.value).startswith("MELDWATCH_HANDLERS: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not pool._all


def test_running_handlers_are_killed_on_shutdown(pool: HandlerPool, tmp_path: Path) -> None:
    """Their results, and those of later calls, do not count."""
    threads, results = run_concurrently(pool, "mine.waits", 1)
    eventually((tmp_path / "began-1").exists, message="a handler at work")
    pool.close()
    for thread in threads:
        thread.join()
    late = pool.run("mine.takes", event())

    assert [result.is_cancelled for result in (*results, late)] == [True, True]
    assert not pool._all


def test_starting_processes_are_killed_on_shutdown(tmp_path: Path) -> None:
    """No process is left of a worker that ends while a process imports its modules."""
    (tmp_path / "mine.py").write_text(MINE)
    with handler_pool_in(tmp_path, "mine", acquire_seconds=60) as pool:
        pool.start()
        (tmp_path / "mine.py").write_text("import time\ntime.sleep(60)")
        threads, results = run_concurrently(pool, "mine.dies", 1)
        threads[0].join()
        threads, results = run_concurrently(pool, "mine.takes", 1)
        eventually(lambda: pool._all, message="a process that starts")
        pool.close()
        threads[0].join()

        eventually(lambda: not pool._all and not pool._starting, message="the end of the process")
    assert [result.is_cancelled for result in results] == [True]


def test_idle_processes_exit_normally(tmp_path: Path) -> None:
    """The exit functions of a module run."""
    (tmp_path / "mine.py").write_text(MINE + "import atexit\natexit.register(pathlib.Path('ended').touch)\n")
    with handler_pool_in(tmp_path, "mine") as pool:
        pool.start()

    assert (tmp_path / "ended").exists()


def test_superfluous_processes_are_ended(tmp_path: Path) -> None:
    """After a while only the process that was used last is kept."""
    (tmp_path / "mine.py").write_text(MINE)
    with handler_pool_in(tmp_path, "mine", acquire_seconds=60, idle_seconds=0.0) as pool:
        pool.start()
        threads, _receipts = run_concurrently(pool, "mine.waits", 2)
        eventually(lambda: len(list(tmp_path.glob("began-*"))) == 2, 60, message="two at once")
        (tmp_path / "continue").touch()
        for thread in threads:
            thread.join()
        pool.run("mine.takes", event())
        pool.run("mine.takes", event())

        assert len(set(callers(tmp_path))) == 1
        eventually(lambda: len(pool._all) == 1, message="one process alone")
