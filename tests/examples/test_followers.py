"""The feed consumers of examples/ (poll.py, stream.py), against a real server and against broken ones."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from runtime.database import Database
from schemas.events import Event
from service.resources.event_stream import encode_event, encode_heartbeat
from tests.examples.receiver_process import EXAMPLES
from tests.runtime.net.raw_socket_server import Handler, Peer, answer, serving
from tests.service.conftest import READ
from tests.service.resources.feed_server import Service
from tests.support import row_factory
from tests.support.polling import eventually

NEW = Event.from_row(row_factory.event(7))
POLL = json.dumps({"events": [NEW.model_dump(mode="json")], "next": 7}).encode()
STREAM = (f"retry: 1000\n{encode_heartbeat(0)}" + encode_event(NEW)).encode()
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class Follower:
    """One of the examples as a process."""

    def __init__(self, name: str, folder: Path, url: str, token: str = READ) -> None:
        self.cursor = folder / "cursor"
        self._output = folder / "output"
        self._errors = folder / "errors"
        with self._output.open("ab") as output, self._errors.open("ab") as errors:
            environment = {"TOKEN": token, "URL": url}
            command = [sys.executable, "-W", "error", EXAMPLES / f"{name}.py"]
            self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=errors)

    @property
    def printed(self) -> list[str]:
        """The sequences of the printed events, in order."""
        return [line.split(" ")[0] for line in self._output.read_text().splitlines()]

    @property
    def errors(self) -> str:
        """Its error output."""
        return self._errors.read_text()

    def wait_for(self, position: int) -> None:
        """Wait until it has stored this position."""
        eventually(lambda: self.cursor.exists() and self.cursor.read_text() == str(position), 20, message=self.errors)

    def kill(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.wait()


@pytest.fixture(params=["poll", "stream"])
def name(request: pytest.FixtureRequest) -> str:
    """Each of the two examples."""
    return str(request.param)


@pytest.fixture
def follow(name: str, tmp_path: Path) -> Iterator[Callable[..., Follower]]:
    """Start followers; each continues after the last position of the previous one."""
    started = []

    def start(url: str, token: str = READ) -> Follower:
        started.append(Follower(name, tmp_path, url, token))
        return started[-1]

    yield start
    for each in started:
        each.kill()


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    """A SQLite database; nothing here depends on the kind of database."""
    made = Database(sqlite_url)
    yield made
    made.close()


def test_it_survives_a_restart_of_the_service(database: Database, follow: Callable[..., Follower]) -> None:
    """Events before, during and after a restart are printed once, in order."""
    first = Service(database)
    url = first.server.url
    row_factory.store(database, row_factory.event(1), row_factory.event(2))
    follower = follow(url)
    follower.wait_for(2)
    first.close()
    row_factory.store(database, row_factory.event(3))
    eventually(lambda: "trying again" in follower.errors, 20, message="another attempt")
    second = Service(database, port=urlsplit(url).port)
    follower.wait_for(3)
    row_factory.store(database, row_factory.event(4))
    follower.wait_for(4)
    second.close()

    assert follower.printed == ["00000001", "00000002", "00000003", "00000004"]


def test_it_continues_where_it_was_killed(database: Database, follow: Callable[..., Follower]) -> None:
    """After each kill it continues after the last processed event."""
    service = Service(database)
    for position in (1, 2, 3):
        row_factory.store(database, row_factory.event(position))
        follower = follow(service.server.url)
        follower.wait_for(position)
        follower.kill()
    service.close()

    assert follower.printed == ["00000001", "00000002", "00000003"]


def cut(data: bytes) -> Handler:
    """Return a handler that sends only this part of an answer and closes the connection."""

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


def test_a_cut_connection_loses_and_repeats_no_event(name: str, follow: Callable[..., Follower]) -> None:
    """Wherever the answer is cut, it requests again from its position, and prints the complete event once."""
    whole = answer(200, POLL) if name == "poll" else CHUNKED + chunk(STREAM)
    with serving(*map(cut, cuts(name)), cut(whole), wait) as server:
        follower = follow(server.url)
        follower.wait_for(7)
        eventually(lambda: len(server.requests) == len(cuts(name)) + 2, 20, message="the next request")
        requests = list(server.requests)
        follower.kill()

    assert follower.printed == ["00000007"]
    assert "Traceback" not in follower.errors
    again = ["after=0" in request or "last-event-id: 0" in request.lower() for request in requests]
    assert again == [True] * (len(cuts(name)) + 1) + [False]


def test_a_revoked_token_ends_it(database: Database, follow: Callable[..., Follower]) -> None:
    """It exits with the service's error message, without another attempt."""
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
