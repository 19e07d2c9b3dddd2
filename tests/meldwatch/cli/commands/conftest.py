"""Databases and deployments that several commands are tested on."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from runtime.database import Database
from runtime.security.encryption import Encryption
from service.ingest.webhook_insert import make_webhook_table
from tests.end_to_end.deployment import Deployment, deployed
from tests.support.encryption_keys import OLD
from tests.support.polling import eventually
from tests.support.scripted_consumer import SECRET, subscribe
from tests.support.webhook_factory import received_webhook

RAW = b'{"eventId":"e1", "eventType":"T",  "payload":{"word":"gr\xfc\xdfe"}}\n\n'
"""A body that is neither UTF-8 nor compact JSON."""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    """A fresh database of each kind."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def offline(url: str, tmp_path: Path) -> Iterator[Deployment]:
    """A deployment without a process: a webhook under an older key, one in clear, a subscription, and a handler."""
    with closing(Database(url)) as database:
        for encryption, raw in ((Encryption([OLD]), RAW), (Encryption([]), b"junk")):
            with closing(make_webhook_table(database, encryption)) as table:
                table.insert([received_webhook(raw)])
        subscribe(database, secret=Encryption([OLD]).encrypt(SECRET))
        subscribe(database, "handler", url="python:ours.handle", secret="")
    with deployed(tmp_path, url, "memory://") as deployment:
        yield deployment


@pytest.fixture
def changed_service(url: str, tmp_path: Path) -> Iterator[Deployment]:
    """A running service with one connection, which has changed since its first read."""
    with deployed(tmp_path, url, "memory://") as deployment:
        deployment.start("up")
        deployment.wait_until_ready()
        id_ = deployment.meld.world.start().id
        deployment.meld.send_webhooks(deployment.meld.world.complete(id_))
        eventually(lambda: deployment.mirror() and deployment.has_no_pending_webhooks(), message="the mirror")
        deployment.meld.send_webhooks(deployment.meld.world.break_connection(id_))
        eventually(
            lambda: deployment.mirror_matches_meld() and deployment.has_no_pending_webhooks(), message="the change"
        )
        yield deployment
