from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.deployment import Deployment, deployed
from tests.support.scripted_consumer import HttpConsumer

SETUPS = {
    "embedded": ("sqlite_url", "memory_url"),
    "valkey": ("postgres_url", "valkey_url"),
    "rabbitmq": ("postgres_url", "rabbitmq_url"),
}


@pytest.fixture(params=list(SETUPS))
def deployment(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployment]:
    """Each documented set-up; no Meldwatch process is started yet."""
    database_url, broker_url = (request.getfixturevalue(name) for name in SETUPS[request.param])
    with deployed(tmp_path, database_url, broker_url) as created:
        yield created


@pytest.fixture
def multi_process(postgres_url: str, valkey_url: str, tmp_path: Path) -> Iterator[Deployment]:
    """The set-up with several processes, on PostgreSQL and Valkey; no Meldwatch process is started yet."""
    with deployed(tmp_path, postgres_url, valkey_url) as created:
        yield created


@pytest.fixture
def embedded(sqlite_url: str, tmp_path: Path) -> Iterator[Deployment]:
    """The set-up with a single process; no Meldwatch process is started yet."""
    with deployed(tmp_path, sqlite_url, "memory://") as created:
        yield created


@pytest.fixture
def consumer() -> Iterator[HttpConsumer]:
    """A push consumer on this machine."""
    with HttpConsumer() as server:
        yield server
