"""The consumers of the feed that the documents show, against a real server, and against rude ones."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from runtime.database import Database
from schemas.events import Event
from service.resources.event_stream import beat, render
from tests.examples.receiver_process import EXAMPLES
from tests.runtime.net.raw_socket_server import Handler, Peer, answer, serving
from tests.service.conftest import READ
from tests.service.resources.feed_server import Service
from tests.support import row_factory
from tests.support.polling import eventually

NEW = Event.from_row(row_factory.event(7))
POLL = json.dumps({"events": [NEW.model_dump(mode="json")], "next": 7}).encode()
STREAM = (f"retry: 1000\n{beat(0)}" + render(NEW)).encode()
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Follower:
    """One of the examples, running."""

    def __init__(self, name: str, folder: Path, url: str, token: str = READ) -> None:
        self.cursor = folder / "cursor"
        self._output = folder / "output"
        self._errors = folder / "errors"
        with self._output.open("ab") as output, self._errors.open("ab") as errors:
            environment = {"TOKEN": token, "URL": url}
            command = [sys.executable, "-W", "error", EXAMPLES / f"{name}.py"]
            self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=errors)

    @property
    def got(self) -> list[str]:
        """The sequences of the events that it has printed, in order."""
        return [line.split(" ")[0] for line in self._output.read_text().splitlines()]

    @property
    def errors(self) -> str:
        """What it has said of what went wrong."""
        return self._errors.read_text()

    def wait_for(self, position: int) -> None:
        """Wait until it has come so far."""
        eventually(lambda: self.cursor.exists() and self.cursor.read_text() == str(position), 20, message=self.errors)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()


@pytest.fixture(params=["poll", "stream"])
def name(request: pytest.FixtureRequest) -> str:
    """Each of the two ways."""
    return str(request.param)


@pytest.fixture
def follow(name: str, tmp_path: Path) -> Iterator[Callable[..., Follower]]:
    """Start followers; each goes on where the last one was."""
    started = []

    def start(url: str, token: str = READ) -> Follower:
        started.append(Follower(name, tmp_path, url, token))
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    """A database of one kind: nothing here depends on it."""
    made = Database(sqlite_url)
    yield made
    made.close()


def test_it_outlives_a_restart_of_the_service(database: Database, follow: Callable[..., Follower]) -> None:
    """What comes before, meanwhile and after is printed once, in order."""
    first = Service(database)
    url = first.server.url
    row_factory.store(database, row_factory.event(1), row_factory.event(2))
    follower = follow(url)
    follower.wait_for(2)
    first.close()
    row_factory.store(database, row_factory.event(3))
    eventually(lambda: "trying again" in follower.errors, 20, message="another try")
    second = Service(database, port=urlsplit(url).port)
    follower.wait_for(3)
    row_factory.store(database, row_factory.event(4))
    follower.wait_for(4)
    second.close()

    assert follower.got == ["00000001", "00000002", "00000003", "00000004"]


def test_it_goes_on_where_it_was_killed(database: Database, follow: Callable[..., Follower]) -> None:
    """Each time with the event behind the last one that it was done with."""
    service = Service(database)
    for position in (1, 2, 3):
        row_factory.store(database, row_factory.event(position))
        follower = follow(service.server.url)
        follower.wait_for(position)
        follower.kill()
    service.close()

    assert follower.got == ["00000001", "00000002", "00000003"]


def cut(data: bytes) -> Handler:
    """Return what answers with the beginning of an answer, and goes."""

    def handle(peer: Peer) -> None:
        peer.request()
        peer.send(data)

    return handle


def wait(peer: Peer) -> None:
    peer.request()
    peer.hang()


def cuts(name: str) -> list[bytes]:
    """Return answers with the same event, each cut off at another place."""
    if name == "poll":
        whole = answer(200, POLL)
        return [b"", whole[:20], whole[: -len(POLL)], whole[:-200], answer(200, POLL[:-200]), answer(503, b"soon")]
    body = STREAM[:-200]
    end = chunk(body) + b"0\r\n\r\n"
    return [CHUNKED, CHUNKED + chunk(body), CHUNKED + chunk(body)[:-100], CHUNKED + b"5", CHUNKED + end, answer(503)]


def test_a_connection_that_is_cut_costs_nothing(name: str, follow: Callable[..., Follower]) -> None:
    """Wherever that is: it asks again from where it was, and prints the event once it is whole, once."""
    whole = answer(200, POLL) if name == "poll" else CHUNKED + chunk(STREAM)
    with serving(*map(cut, cuts(name)), cut(whole), wait) as server:
        follower = follow(server.url)
        follower.wait_for(7)
        eventually(lambda: len(server.requests) == len(cuts(name)) + 2, 20, message="the next request")
        requests = list(server.requests)
        follower.kill()

    assert follower.got == ["00000007"]
    assert "Traceback" not in follower.errors
    again = ["after=0" in request or "last-event-id: 0" in request.lower() for request in requests]
    assert again == [True] * (len(cuts(name)) + 1) + [False]


def test_a_token_that_is_none_any_more_ends_it(database: Database, follow: Callable[..., Follower]) -> None:
    """With what the service says about it, and no other try."""
    service = Service(database)
    url = service.server.url
    row_factory.store(database, row_factory.event(1))
    follow(url).wait_for(1)
    ended = follow(url, token="revoked")
    code = ended.process.wait(20)
    service.close()

    assert code == 1
    assert ended.errors.startswith(f"{url} refuses: ")
    assert '"status":401' in ended.errors.replace(" ", "")
    assert "Traceback" not in ended.errors
