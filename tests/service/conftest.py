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
from tests.support.scripted_consumer import ENCRYPTION
from workers.history.projection import project_mirrors

HOSTS = {"localhost": ["127.0.0.1"], "inside.example": ["1.1.1.1", "10.0.0.1"], "nowhere.example": []}
"""Addresses of host names in these tests; every other name has a public address."""

READ = "read-token"
ADMIN = "admin-token"
ADMIN_NAME = "alice"
"""Name of the admin token."""


async def echo(request: Request) -> Response:
    """Echo the request's body and query: stands in for the webhook endpoint."""
    return Response((await request.body()) + str(request.url.query).encode())


@dataclass(kw_only=True)
class Api:
    """The application, its dependencies, and clients with each kind of token."""

    app: Starlette
    database: Database
    feed: FeedNotifier
    clock: HandClock
    broker: FakeBroker
    metrics: Metrics
    notified: list[str]
    anonymous: TestClient
    reader: TestClient
    admin: TestClient


@dataclass(kw_only=True)
class AppFactory:
    """The dependencies of an application."""

    database: Database
    settings: Settings = field(
        default_factory=lambda: Settings(
            read_tokens=(SecretStr(READ),), admin_tokens=(SecretStr(f"{ADMIN_NAME}:{ADMIN}"),)
        )
    )
    clock: HandClock = field(default_factory=HandClock)
    broker: FakeBroker = field(default_factory=FakeBroker)
    metrics: Metrics = field(default_factory=Metrics)
    notified: list[str] = field(default_factory=list)

    def app(self, feed: FeedNotifier) -> Starlette:
        """Return the application."""
        return create_app(
            settings=self.settings,
            database=self.database,
            clock=self.clock,
            webhook_endpoint=echo,
            notify_workers=self.notified.extend,
            ping_broker=self.broker.ping,
            feed=feed,
            subscription_manager=self.subscription_manager(),
            replay_manager=replays_on(self.database),
            metrics=self.metrics,
            views=project_mirrors,
        )

    def subscription_manager(self, encryption: Encryption = ENCRYPTION, **bounds: int) -> SubscriptionManager:
        """Return a subscription manager."""
        numbers = itertools.count(1)
        return SubscriptionManager(
            database=self.database,
            encryption=encryption,
            url_guard=SsrfGuard(lookup=lambda host, _port: HOSTS.get(host, ["1.1.1.1"])),
            new_secret=lambda: f"whsec_{next(numbers):032}",
            new_id=lambda: uuid.uuid4().hex,
            **bounds,
        )


@pytest.fixture
def api(database: Database) -> Iterator[Api]:
    """The API on a fresh database."""
    factory = AppFactory(database=database)
    feed = FeedNotifier(database=database)
    app = factory.app(feed)

    def client(token: str | None) -> TestClient:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return stack.enter_context(TestClient(app, headers=headers, raise_server_exceptions=False))

    with ExitStack() as stack:
        yield Api(
            app=app,
            database=database,
            feed=feed,
            clock=factory.clock,
            broker=factory.broker,
            metrics=factory.metrics,
            notified=factory.notified,
            anonymous=client(None),
            reader=client(READ),
            admin=client(ADMIN),
        )
        feed.close()


@pytest.fixture(params=["sqlite:////nowhere/at/all.db", "postgresql://nobody@127.0.0.1:1/nothing"])
def unreachable_database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database that does not answer, one of each dialect."""
    database = Database(request.param)
    yield database
    database.close()
