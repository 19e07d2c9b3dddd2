"""A running service for tests of commands."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.deployment import Deployment, deployed
from tests.support.polling import eventually


@pytest.fixture(params=["sqlite", "postgres"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Deployment]:
    """A running service on each database, with one connection in its mirror."""
    with deployed(tmp_path, request.getfixturevalue(f"{request.param}_url"), "memory://") as deployment:
        deployment.start("up")
        deployment.wait_until_ready()
        deployment.meld.send_webhooks(deployment.meld.world.complete(deployment.meld.world.start().id))
        eventually(lambda: deployment.mirror() and deployment.has_no_pending_webhooks(), message="the mirror")
        yield deployment
