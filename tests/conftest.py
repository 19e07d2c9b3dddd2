"""Fixtures that all tests share: real databases and real brokers, a fresh one for each test.

``database_url`` and ``broker_url`` come once for each kind; what passes on one must pass on all.
"""

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import settings

from runtime.database import Database
from tests.support.processes import servers
from tests.support.processes.reused_databases import ReusedDatabases
from tests.support.random_rounds import rounds

RUN = pytest.StashKey[servers.Run]()
WAITING_TESTS = ("tests/end_to_end/", "tests/examples/", "tests/meldwatch/", "tests/runtime/test_broker.py")
"""Tests of whole processes. They wait more than they compute: spread, they leave the processor to the others."""

MIN_SPREAD_TESTS = 100
EXAMPLES = Path(__file__).parents[1] / "examples"

# Where pytest puts the folders of tests: SQLite waits for the disk at each commit, which no test is about.
if (memory := servers.find_memory_folder()) is not None:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", memory)

# How long an example takes says more of the machine than of the program.
settings.register_profile("meldwatch", deadline=None, max_examples=rounds(40))
settings.load_profile("meldwatch")


def pytest_configure(config: pytest.Config) -> None:
    """Begin the test run, or join the one that this process was started for."""
    worker = getattr(config, "workerinput", None)
    config.stash[RUN] = servers.Run(Path(worker["run_directory"])) if worker else servers.Run.begin()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that ``make soak`` repeats with many more rounds, and spread those that wait among the others."""
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item.module, "rounds"):
            item.add_marker(pytest.mark.random)
    waiting = [item for item in items if item.nodeid.startswith(WAITING_TESTS)]
    others = [item for item in items if not item.nodeid.startswith(WAITING_TESTS)]
    if len(waiting) > MIN_SPREAD_TESTS and len(others) > MIN_SPREAD_TESTS:
        places = [(number / len(group), item) for group in (waiting, others) for number, item in enumerate(group)]
        items[:] = [item for _place, item in sorted(places, key=lambda each: each[0])]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell an xdist worker which run it belongs to."""
    node.workerinput["run_directory"] = str(node.config.stash[RUN].directory)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the test run, with all of its servers."""
    if RUN in config.stash:
        config.stash[RUN].end()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which optional real parts were missing, and what was therefore not run."""
    reports = [report for kind in ("skipped", "error") for report in terminalreporter.stats.get(kind, [])]
    terminalreporter.section("optional real parts")
    missed = {
        part: sorted({report.nodeid for report in reports if part in str(report.longrepr)}) for part in servers.OPTIONAL
    }
    if not any(missed.values()):
        terminalreporter.line("None was missing.")
    for part, tests in missed.items():
        if tests:
            terminalreporter.line(f"{part}, therefore not run:")
        for test in tests:
            terminalreporter.line(f"  {test}")


def _miss(part: str) -> NoReturn:
    """Leave the test out, since a real part is missing; with CI=true nothing may be left out."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(part)


@pytest.fixture(scope="session")
def test_run(pytestconfig: pytest.Config) -> servers.Run:
    """The test run: what ``tests.support.processes.servers`` needs to start a server of one's own."""
    return pytestconfig.stash[RUN]


@pytest.fixture(scope="session")
def _names() -> Iterator[str]:
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    return (f"test_{worker}_{number}" for number in itertools.count())


@pytest.fixture(scope="session")
def _valkey_urls(test_run: servers.Run) -> Iterator[str]:
    return servers.valkey_databases(test_run, int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")))


@pytest.fixture
def sqlite_url(test_run: servers.Run, tmp_path: Path) -> str:
    """A fresh, migrated SQLite database."""
    return servers.sqlite_database(test_run, tmp_path)


@pytest.fixture
def postgres_url(test_run: servers.Run, _names: Iterator[str]) -> Iterator[str]:
    """A fresh, migrated PostgreSQL database."""
    with servers.postgres_database(test_run, next(_names)) as url:
        yield url


@pytest.fixture(scope="session")
def _reused_databases(test_run: servers.Run) -> Iterator[ReusedDatabases]:
    reused = ReusedDatabases(test_run, os.environ.get("PYTEST_XDIST_WORKER", "gw0"))
    yield reused
    reused.close()


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, _reused_databases: ReusedDatabases) -> str:
    """A migrated database, of each kind; this process's own, emptied for the test."""
    return _reused_databases.empty(request.param)


@pytest.fixture
def database(database_url: str, _reused_databases: ReusedDatabases) -> Iterator[Database]:
    """A migrated database, of each kind, open; this process's own, emptied for the test."""
    database = _reused_databases.opened(database_url)
    yield database
    database.close()


@pytest.fixture
def valkey_url(_valkey_urls: Iterator[str]) -> str:
    """An empty database on a real Valkey."""
    return next(_valkey_urls)


@pytest.fixture
def rabbitmq_url(test_run: servers.Run, _names: Iterator[str]) -> Iterator[str]:
    """An empty virtual host on a real RabbitMQ; where there is none the test is skipped, but fails with CI=true."""
    if servers.find_rabbitmq() is None:
        _miss(servers.RABBITMQ_MISSING)
    with servers.rabbitmq_vhost(test_run, next(_names)) as url:
        yield url


@pytest.fixture(scope="session")
def node() -> Path:
    """Node's program; where there is none the test is skipped, but fails with CI=true."""
    return servers.find_node() or _miss(servers.NODE_MISSING)


@pytest.fixture(params=["python", "node"])
def receiver(request: pytest.FixtureRequest) -> list[str | Path]:
    """How to start a receiver of the documents, in each language."""
    if request.param == "python":
        return [sys.executable, "-W", "error", EXAMPLES / "receiver.py"]
    return [request.getfixturevalue("node"), EXAMPLES / "receiver.mjs"]


@pytest.fixture
def memory_url() -> str:
    """The broker inside the process."""
    return "memory://"


@pytest.fixture(params=["memory", "valkey", "rabbitmq"])
def broker_url(request: pytest.FixtureRequest) -> str:
    """An empty broker, of each kind."""
    return request.getfixturevalue(f"{request.param}_url")
