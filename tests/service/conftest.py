"""The API on a real database, with a client for each kind of caller."""

import itertools
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.testclient import TestClient

from runtime.database import Database
from runtime.metrics import Metrics
from runtime.net.ssrf_guard import SsrfGuard
from runtime.security.encryption import Encryption
from runtime.settings import Settings
from service.app import create_app
from service.feed.notifier import FeedNotifier
from service.subscriptions.manage import SubscriptionManager
from tests.service.fakes import FakeBroker, HandClock
from tests.service.replay.replay_helpers import replays_on
from tests.support.scripted_consumer import VAULT
from workers.history.projection import views

HOSTS = {"localhost": ["127.0.0.1"], "inside.example": ["1.1.1.1", "10.0.0.1"], "nowhere.example": []}
"""What a name means to these tests; every other is a public host."""

READ = "read-token"
ADMIN = "admin-token"
WHO = "alice"
"""Whose the admin token is."""


async def receive(request: Request) -> Response:
    """Stand for the webhook route: answer with what came."""
    return Response((await request.body()) + str(request.url.query).encode())


@dataclass(kw_only=True)
class Api:
    """The application, what it was made of, and its callers."""

    app: Starlette
    database: Database
    feed: FeedNotifier
    clock: HandClock
    broker: FakeBroker
    metrics: Metrics
    woken: list[str]
    anonymous: TestClient
    reader: TestClient
    admin: TestClient


@dataclass(kw_only=True)
class Parts:
    """What an application is made of."""

    database: Database
    settings: Settings = field(
        default_factory=lambda: Settings(read_tokens=(SecretStr(READ),), admin_tokens=(SecretStr(f"{WHO}:{ADMIN}"),))
    )
    clock: HandClock = field(default_factory=HandClock)
    broker: FakeBroker = field(default_factory=FakeBroker)
    metrics: Metrics = field(default_factory=Metrics)
    woken: list[str] = field(default_factory=list)

    def app(self, feed: FeedNotifier) -> Starlette:
        """Make the application."""
        return create_app(
            settings=self.settings,
            database=self.database,
            clock=self.clock,
            receive=receive,
            wake=self.woken.extend,
            ping_broker=self.broker.ping,
            feed=feed,
            subscribe=self.subscribe(),
            replay=replays_on(self.database),
            metrics=self.metrics,
            views=views,
        )

    def subscribe(self, vault: Encryption = VAULT, **bounds: int) -> SubscriptionManager:
        """Make what is done with subscriptions."""
        numbers = itertools.count(1)
        return SubscriptionManager(
            database=self.database,
            vault=vault,
            target=SsrfGuard(find=lambda host, _port: HOSTS.get(host, ["1.1.1.1"])),
            new_secret=lambda: f"whsec_{next(numbers):032}",
            new_id=lambda: uuid.uuid4().hex,
            **bounds,
        )


@pytest.fixture
def api(database: Database) -> Iterator[Api]:
    """The API on a fresh database."""
    parts = Parts(database=database)
    feed = FeedNotifier(database=database)
    app = parts.app(feed)

    def client(token: str | None) -> TestClient:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return stack.enter_context(TestClient(app, headers=headers, raise_server_exceptions=False))

    with ExitStack() as stack:
        yield Api(
            app=app,
            database=database,
            feed=feed,
            clock=parts.clock,
            broker=parts.broker,
            metrics=parts.metrics,
            woken=parts.woken,
            anonymous=client(None),
            reader=client(READ),
            admin=client(ADMIN),
        )
        feed.close()


@pytest.fixture(params=["sqlite:////nowhere/at/all.db", "postgresql://nobody@127.0.0.1:1/nothing"])
def away(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database that does not answer, of each kind."""
    database = Database(request.param)
    yield database
    database.close()
