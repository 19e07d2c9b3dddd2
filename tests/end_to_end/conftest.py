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
    """Each set-up that the contract names; nothing of ours is started yet."""
    database_url, broker_url = (request.getfixturevalue(name) for name in SETUPS[request.param])
    with deployed(tmp_path, database_url, broker_url) as made:
        yield made


@pytest.fixture
def many(postgres_url: str, valkey_url: str, tmp_path: Path) -> Iterator[Deployment]:
    """The set-up of several processes, over PostgreSQL and Valkey; nothing of ours is started yet."""
    with deployed(tmp_path, postgres_url, valkey_url) as made:
        yield made


@pytest.fixture
def embedded(sqlite_url: str, tmp_path: Path) -> Iterator[Deployment]:
    """The set-up of one process; nothing of ours is started yet."""
    with deployed(tmp_path, sqlite_url, "memory://") as made:
        yield made


@pytest.fixture
def consumer() -> Iterator[HttpConsumer]:
    """A subscriber on this machine."""
    with HttpConsumer() as made:
        yield made
