from collections.abc import Iterator
from random import Random

import pytest
from starlette.testclient import TestClient

from simulator.server import create_app
from simulator.simulation import Simulation
from simulator.world.world import World
from tests.simulator.fakes import SECRET, WEBHOOK_URL, Clock, Receiver


@pytest.fixture
def clock() -> Clock:
    """A clock that only the test advances."""
    return Clock()


@pytest.fixture
def world(clock: Clock) -> World:
    """An empty world."""
    return World(clock=clock, random=Random(7))


@pytest.fixture
def receiver() -> Receiver:
    """The receiver of the webhooks."""
    return Receiver()


@pytest.fixture
def simulation(receiver: Receiver) -> Simulation:
    """An empty simulation with retries after milliseconds."""
    return Simulation(webhook_url=WEBHOOK_URL, webhook_secret=SECRET, time_scale=1e-4, transport=receiver)


@pytest.fixture
def client(simulation: Simulation) -> Iterator[TestClient]:
    """A client of the simulation, with any credentials."""
    with TestClient(create_app(simulation), headers={"Authorization": "BASIC any"}) as client:
        yield client
