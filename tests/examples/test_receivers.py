"""The receivers that the documents show, against what the workers really send."""

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from runtime.database import Database
from runtime.net.push_client import PushClient
from runtime.net.ssrf_guard import SsrfGuard
from schemas.push import Receipt
from schemas.tables import DeliveryQueueRow, DeliveryRow
from tests.examples.receiver_process import EXAMPLES, Receiver
from tests.support.scripted_consumer import SECRET, VAULT, Pushed, deliver_on, deliveries, emit, subscribe
from workers.delivery.signing import headers

OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


class Watched:
    """The real way to subscribers, which remembers what went along it."""

    def __init__(self, push: PushClient) -> None:
        self.pushes: list[Pushed] = []
        self._push = push

    def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Receipt:
        """Push, as the program does."""
        self.pushes.append(Pushed(url, headers, body))
        return self._push.send(url, headers, body)


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    """A database of one kind: nothing here depends on it."""
    made = Database(sqlite_url)
    yield made
    made.close()


@pytest.fixture
def sender() -> Iterator[Watched]:
    """The real way to subscribers."""
    push = PushClient(guard=SsrfGuard(["127.0.0.0/8"]), connections=4)
    yield Watched(push)
    push.close()


@pytest.fixture
def start(receiver: list[str | Path], tmp_path: Path) -> Iterator[Callable[..., Receiver]]:
    """Start receivers; each goes on where the last one in the same folder was."""
    started = []

    def run(secret: str = SECRET, folder: str = "receiver") -> Receiver:
        (tmp_path / folder).mkdir(exist_ok=True)
        started.append(Receiver(receiver, tmp_path / folder, secret))
        return started[-1]

    yield run
    for each in started:
        each.kill()


def again(database: Database) -> None:
    """Owe everything once more, as where the answers had been lost."""
    with database.write() as session:
        session.exec(update(DeliveryRow).values(delivered_at=None))
        session.exec(update(DeliveryQueueRow).values(due_at=datetime.now(UTC) - timedelta(seconds=1)))


def test_what_is_pushed_is_kept_once(database: Database, sender: Watched, start: Callable[..., Receiver]) -> None:
    """Everything is taken with 204, in the order of its connection; a repeat too, and it is not handled again."""
    receiver = start()
    subscribe(database, url=receiver.url)
    events = emit(database, "c1", "c2", "c1", "c1")
    deliver_on(database, sender).deliver("s1")
    first = list(receiver.kept)
    again(database)
    deliver_on(database, sender).deliver("s1")

    assert [sequence for sequence, subject in first if subject == "c1"] == ["00000001", "00000003", "00000004"]
    assert len(first) == len(events)
    assert receiver.kept == first
    assert [[outcome["status"] for outcome in row.outcomes] for row in deliveries(database)] == [[204, 204]] * 4
    assert len(sender.pushes) == 8


def test_it_forgets_nothing_when_it_dies(database: Database, sender: Watched, start: Callable[..., Receiver]) -> None:
    """Killed and started again it knows what it has kept, and takes what came meanwhile."""
    receiver = start()
    subscribe(database, url=receiver.url)
    emit(database, "c1", "c2")
    deliver_on(database, sender).deliver("s1")
    receiver.kill()
    emit(database, "c1")
    other = start()
    for pushed in list(sender.pushes):
        assert sender.send(other.url, pushed.headers, pushed.body) == Receipt(204)
    during = list(other.kept)
    subscribe(database, "s2", url=other.url)
    emit(database, "c3")
    deliver_on(database, sender).deliver("s2")

    assert (during, other.kept) == ([], [("00000004", "c3")])


def test_a_journal_that_was_cut_off_is_mended(database: Database, sender: Watched, node: Path, tmp_path: Path) -> None:
    """The one in Node, killed while it wrote: what was written in part is taken away, and taken when it comes again."""
    start = [node, EXAMPLES / "receiver.mjs"]
    receiver = Receiver(start, tmp_path, SECRET)
    subscribe(database, url=receiver.url)
    emit(database, "c1", "c1")
    deliver_on(database, sender).deliver("s1")
    receiver.kill()
    journal = tmp_path / "events.jsonl"
    journal.write_bytes(journal.read_bytes()[:-9])
    other = Receiver(start, tmp_path, SECRET)
    for pushed in list(sender.pushes):
        sender.send(other.url, pushed.headers, pushed.body)
    other.kill()

    assert other.kept == [("00000002", "c1")]
    assert len(journal.read_text().splitlines()) == 2


CHANGES: dict[str, Callable[[dict[str, str]], object]] = {
    "another id": lambda sent: sent.update({"webhook-id": "event-2"}),
    "another time": lambda sent: sent.update({"webhook-timestamp": str(int(sent["webhook-timestamp"]) - 1)}),
    "no time": lambda sent: sent.update({"webhook-timestamp": "soon"}),
    "an endless time": lambda sent: sent.update({"webhook-timestamp": "9" * 5000}),
    "another signature": lambda sent: sent.update({"webhook-signature": "v1,AAAA"}),
    "half a signature": lambda sent: sent.update({"webhook-signature": sent["webhook-signature"][:-4]}),
    "a signature of another kind": lambda sent: sent.update(
        {"webhook-signature": "v2" + sent["webhook-signature"][2:]}
    ),
    "an odd signature": lambda sent: sent.update({"webhook-signature": "v1, v1 ,, ="}),
    "an empty signature": lambda sent: sent.update({"webhook-signature": ""}),
    "no id": lambda sent: sent.pop("webhook-id"),
    "no timestamp": lambda sent: sent.pop("webhook-timestamp"),
    "no signature": lambda sent: sent.pop("webhook-signature"),
}


def test_what_is_not_genuine_is_refused(database: Database, sender: Watched, start: Callable[..., Receiver]) -> None:
    """401 for what was altered, signed by another, or too long ago; the retry that is as it should be is taken."""
    receiver = start()
    subscribe(database, url=receiver.url)
    emit(database, "c1")
    deliver_on(database, sender).deliver("s1")
    (good,) = sender.pushes
    text, now = good.body.decode(), datetime.now(UTC)
    wrong: dict[str, tuple[Mapping[str, str], bytes]] = {
        "another body": (good.headers, good.body.replace(b"ACTIVE", b"DAMAGED")),
        "a longer body": (good.headers, good.body + b" "),
        "no body": (good.headers, b""),
        "another secret": (headers(good.event_id, text, secrets=[OTHER], now=now), good.body),
        "a secret of nothing": (headers(good.event_id, text, secrets=["whsec_AA=="], now=now), good.body),
    }
    for minutes in (-6, 6):
        then = now + timedelta(minutes=minutes)
        wrong[f"{minutes} minutes"] = headers(good.event_id, text, secrets=[SECRET], now=then), good.body
    for name, change in CHANGES.items():
        sent = dict(good.headers)
        change(sent)
        wrong[name] = sent, good.body
    receiver.kill()
    fresh = start(folder="fresh")

    answers = {name: sender.send(fresh.url, *push).status for name, push in wrong.items()}

    assert answers == dict.fromkeys(wrong, 401)
    assert fresh.kept == []
    assert sender.send(fresh.url, good.headers, good.body) == Receipt(204)
    assert fresh.kept == [("00000001", "c1")]


def test_a_push_that_is_refused_comes_again(
    database: Database, sender: Watched, start: Callable[..., Receiver]
) -> None:
    """One that was too old for the receiver's clock is not lost: the next attempt is signed anew."""
    receiver = start()
    subscribe(database, url=receiver.url)
    emit(database, "c1")
    deliver_on(database, sender, clock=lambda: datetime.now(UTC) - timedelta(minutes=6)).deliver("s1")
    refused = list(receiver.kept)
    with database.write() as session:
        session.exec(update(DeliveryQueueRow).values(due_at=datetime.now(UTC) - timedelta(seconds=1)))
    deliver_on(database, sender).deliver("s1")

    (row,) = deliveries(database)
    assert [outcome["status"] for outcome in row.outcomes] == [401, 204]
    assert (refused, receiver.kept) == ([], [("00000001", "c1")])


def test_either_secret_will_do_while_they_are_rotated(
    database: Database, sender: Watched, start: Callable[..., Receiver]
) -> None:
    """The one who has the new secret takes what is pushed, and so does the one who has the old one still."""
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    receivers = {secret: start(secret, folder=name) for secret, name in ((SECRET, "new"), (OTHER, "old"))}
    for number, receiver in enumerate(receivers.values()):
        previous = [{"sealed": VAULT.seal(OTHER), "until": until}]
        subscribe(database, f"s{number}", url=receiver.url, previous_secrets=previous)
    emit(database, "c1")
    for number in range(len(receivers)):
        deliver_on(database, sender).deliver(f"s{number}")

    assert [receiver.kept for receiver in receivers.values()] == [[("00000001", "c1")]] * 2
    assert [len(pushed.headers["webhook-signature"].split(" ")) for pushed in sender.pushes] == [2, 2]


def test_it_outlives_what_is_no_push(database: Database, sender: Watched, start: Callable[..., Receiver]) -> None:
    """Strangers' requests, whole or not, are refused and end nothing."""
    receiver = start()
    strange = [
        b"",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\n\r\n",
        b"POST / HTTP/1.1\r\nwebhook-id: \xff\r\nwebhook-timestamp: \xb2\r\nContent-Length: 1\r\n\r\nx",
        b"POST / HTTP/1.1\r\nwebhook-id: a\r\nwebhook-timestamp: %d\r\nwebhook-signature: v1,\xb2 \xff\r\n"
        b"Content-Length: 1\r\n\r\nx" % time.time(),
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + b"80000\r\n" + b"x" * 0x80000 + b"\r\n",
    ]
    answers = [receiver.ask(request) for request in strange]
    answers.append(receiver.ask(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 20000000\r\n\r\n" + b"x" * 9_000_000))
    subscribe(database, url=receiver.url)
    emit(database, "c1")
    deliver_on(database, sender).deliver("s1")

    assert [answer for answer in answers if b" 2" in answer.partition(b"\r\n")[0]] == []
    assert ("00000001", "c1") in receiver.kept


@pytest.mark.parametrize("secret", [None, "", "whsec_"])
def test_without_a_secret_it_does_not_start(receiver: list[str | Path], tmp_path: Path, secret: str | None) -> None:
    """Or anybody could sign: with nothing."""
    environment = {"PORT": "0", **({} if secret is None else {"SECRET": secret})}
    ended = subprocess.run(
        receiver, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )

    assert ended.returncode != 0
    assert ended.stderr.startswith("SECRET is not set")
