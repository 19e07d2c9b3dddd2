"""Fixtures that all tests share: real databases and real brokers, a fresh one for each test.

``database_url`` and ``broker_url`` come once for each kind; what passes on one must pass on all.
"""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from runtime.database import Database
from tests import servers

RUN = pytest.StashKey[servers.Run]()

# How long an example takes says more of the machine than of the program.
settings.register_profile("meldwatch", deadline=None)
settings.load_profile("meldwatch")


def pytest_configure(config: pytest.Config) -> None:
    """Begin the test run, or join the one that this process was started for."""
    worker = getattr(config, "workerinput", None)
    config.stash[RUN] = servers.Run(Path(worker["run_directory"])) if worker else servers.Run.begin()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: pytest.Item) -> None:
    """Tell an xdist worker which run it belongs to."""
    node.workerinput["run_directory"] = str(node.config.stash[RUN].directory)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the test run, with all of its servers."""
    if RUN in config.stash:
        config.stash[RUN].end()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which optional real parts were missing, and what was therefore not run."""
    reports = [report for kind in ("skipped", "error") for report in terminalreporter.stats.get(kind, [])]
    missed = sorted({report.nodeid for report in reports if servers.RABBITMQ_MISSING in str(report.longrepr)})
    terminalreporter.section("optional real parts")
    if not missed:
        terminalreporter.line("None was missing.")
    else:
        terminalreporter.line(f"{servers.RABBITMQ_MISSING}, therefore not run:")
        for test in missed:
            terminalreporter.line(f"  {test}")


@pytest.fixture(scope="session")
def test_run(pytestconfig: pytest.Config) -> servers.Run:
    """The test run: what ``tests.servers`` needs to start a server of one's own."""
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


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A fresh, migrated database, of each kind."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A fresh, migrated database, of each kind, open."""
    database = Database(database_url)
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
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(servers.RABBITMQ_MISSING)
    with servers.rabbitmq_vhost(test_run, next(_names)) as url:
        yield url


@pytest.fixture
def memory_url() -> str:
    """The broker inside the process."""
    return "memory://"


@pytest.fixture(params=["memory", "valkey", "rabbitmq"])
def broker_url(request: pytest.FixtureRequest) -> str:
    """An empty broker, of each kind."""
    return request.getfixturevalue(f"{request.param}_url")
