"""The receivers of examples/ (Python and Node), against real pushes of the dispatcher."""

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
from schemas.push import PushResult
from schemas.tables import DeliveryQueueRow, DeliveryRow
from tests.examples.receiver_process import EXAMPLES, ReceiverProcess
from tests.support.scripted_consumer import (
    ENCRYPTION,
    SECRET,
    ReceivedPush,
    deliveries,
    emit,
    make_dispatcher,
    subscribe,
)
from workers.delivery.signing import signed_headers

OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"


class RecordingPushClient:
    """The real push client, which also records the pushes."""

    def __init__(self, push: PushClient) -> None:
        self.pushes: list[ReceivedPush] = []
        self._push = push

    def send(self, url: str, signed_headers: Mapping[str, str], body: bytes) -> PushResult:
        """Record and send the push."""
        self.pushes.append(ReceivedPush(url, signed_headers, body))
        return self._push.send(url, signed_headers, body)


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    """A SQLite database; nothing here depends on the kind of database."""
    made = Database(sqlite_url)
    yield made
    made.close()


@pytest.fixture
def sender() -> Iterator[RecordingPushClient]:
    """The real push client."""
    push = PushClient(guard=SsrfGuard(["127.0.0.0/8"]), connections=4)
    yield RecordingPushClient(push)
    push.close()


@pytest.fixture
def start(receiver: list[str | Path], tmp_path: Path) -> Iterator[Callable[..., ReceiverProcess]]:
    """Start receivers; one in the same folder continues with the stored events of the previous one."""
    started = []

    def run(secret: str = SECRET, folder: str = "receiver") -> ReceiverProcess:
        (tmp_path / folder).mkdir(exist_ok=True)
        started.append(ReceiverProcess(receiver, tmp_path / folder, secret))
        return started[-1]

    yield run
    for each in started:
        each.kill()


def make_all_due_again(database: Database) -> None:
    """Make all deliveries due again, as if their answers had been lost."""
    with database.write() as session:
        session.exec(update(DeliveryRow).values(delivered_at=None))
        session.exec(update(DeliveryQueueRow).values(due_at=datetime.now(UTC) - timedelta(seconds=1)))


def test_each_pushed_event_is_stored_once(
    database: Database, sender: RecordingPushClient, start: Callable[..., ReceiverProcess]
) -> None:
    """All pushes are answered 204, in order for each connection; repeats too, but they are not processed again."""
    receiver = start()
    subscribe(database, url=receiver.url)
    events = emit(database, "c1", "c2", "c1", "c1")
    make_dispatcher(database, sender).deliver("s1")
    first = list(receiver.stored)
    make_all_due_again(database)
    make_dispatcher(database, sender).deliver("s1")

    assert [sequence for sequence, subject in first if subject == "c1"] == ["00000001", "00000003", "00000004"]
    assert len(first) == len(events)
    assert receiver.stored == first
    assert [[outcome["status"] for outcome in row.outcomes] for row in deliveries(database)] == [[204, 204]] * 4
    assert len(sender.pushes) == 8


def test_no_event_is_lost_when_it_is_killed(
    database: Database, sender: RecordingPushClient, start: Callable[..., ReceiverProcess]
) -> None:
    """After a kill and a restart it still has the stored events, and accepts the later ones."""
    receiver = start()
    subscribe(database, url=receiver.url)
    emit(database, "c1", "c2")
    make_dispatcher(database, sender).deliver("s1")
    receiver.kill()
    emit(database, "c1")
    other = start()
    for pushed in list(sender.pushes):
        assert sender.send(other.url, pushed.headers, pushed.body) == PushResult(204)
    during = list(other.stored)
    subscribe(database, "s2", url=other.url)
    emit(database, "c3")
    make_dispatcher(database, sender).deliver("s2")

    assert (during, other.stored) == ([], [("00000004", "c3")])


def test_a_truncated_journal_is_repaired(
    database: Database, sender: RecordingPushClient, node: Path, tmp_path: Path
) -> None:
    """Node: after a kill during a write, the incomplete line is removed, and a repeat of its event is stored."""
    start = [node, EXAMPLES / "receiver.mjs"]
    receiver = ReceiverProcess(start, tmp_path, SECRET)
    subscribe(database, url=receiver.url)
    emit(database, "c1", "c1")
    make_dispatcher(database, sender).deliver("s1")
    receiver.kill()
    journal = tmp_path / "events.jsonl"
    journal.write_bytes(journal.read_bytes()[:-9])
    other = ReceiverProcess(start, tmp_path, SECRET)
    for pushed in list(sender.pushes):
        sender.send(other.url, pushed.headers, pushed.body)
    other.kill()

    assert other.stored == [("00000002", "c1")]
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


def test_pushes_without_a_valid_signature_are_refused(
    database: Database, sender: RecordingPushClient, start: Callable[..., ReceiverProcess]
) -> None:
    """401 for pushes that are altered, signed with another secret or too old; a valid retry is accepted."""
    receiver = start()
    subscribe(database, url=receiver.url)
    emit(database, "c1")
    make_dispatcher(database, sender).deliver("s1")
    (good,) = sender.pushes
    text, now = good.body.decode(), datetime.now(UTC)
    wrong: dict[str, tuple[Mapping[str, str], bytes]] = {
        "another body": (good.headers, good.body.replace(b"ACTIVE", b"DAMAGED")),
        "a longer body": (good.headers, good.body + b" "),
        "no body": (good.headers, b""),
        "another secret": (signed_headers(good.event_id, text, secrets=[OTHER], now=now), good.body),
        "a secret of nothing": (signed_headers(good.event_id, text, secrets=["whsec_AA=="], now=now), good.body),
    }
    for minutes in (-6, 6):
        then = now + timedelta(minutes=minutes)
        wrong[f"{minutes} minutes"] = signed_headers(good.event_id, text, secrets=[SECRET], now=then), good.body
    for name, change in CHANGES.items():
        sent = dict(good.headers)
        change(sent)
        wrong[name] = sent, good.body
    receiver.kill()
    fresh = start(folder="fresh")

    answers = {name: sender.send(fresh.url, *push).status for name, push in wrong.items()}

    assert answers == dict.fromkeys(wrong, 401)
    assert fresh.stored == []
    assert sender.send(fresh.url, good.headers, good.body) == PushResult(204)
    assert fresh.stored == [("00000001", "c1")]


def test_a_refused_push_is_retried(
    database: Database, sender: RecordingPushClient, start: Callable[..., ReceiverProcess]
) -> None:
    """A push that is too old for the receiver's clock is not lost: the next attempt has a new signature."""
    receiver = start()
    subscribe(database, url=receiver.url)
    emit(database, "c1")
    make_dispatcher(database, sender, clock=lambda: datetime.now(UTC) - timedelta(minutes=6)).deliver("s1")
    refused = list(receiver.stored)
    with database.write() as session:
        session.exec(update(DeliveryQueueRow).values(due_at=datetime.now(UTC) - timedelta(seconds=1)))
    make_dispatcher(database, sender).deliver("s1")

    (row,) = deliveries(database)
    assert [outcome["status"] for outcome in row.outcomes] == [401, 204]
    assert (refused, receiver.stored) == ([], [("00000001", "c1")])


def test_during_a_rotation_both_secrets_verify(
    database: Database, sender: RecordingPushClient, start: Callable[..., ReceiverProcess]
) -> None:
    """Receivers with the new and with the old secret both accept the push."""
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    receivers = {secret: start(secret, folder=name) for secret, name in ((SECRET, "new"), (OTHER, "old"))}
    for number, receiver in enumerate(receivers.values()):
        previous = [{"sealed": ENCRYPTION.encrypt(OTHER), "until": until}]
        subscribe(database, f"s{number}", url=receiver.url, previous_secrets=previous)
    emit(database, "c1")
    for number in range(len(receivers)):
        make_dispatcher(database, sender).deliver(f"s{number}")

    assert [receiver.stored for receiver in receivers.values()] == [[("00000001", "c1")]] * 2
    assert [len(pushed.headers["webhook-signature"].split(" ")) for pushed in sender.pushes] == [2, 2]


def test_it_survives_requests_that_are_not_pushes(
    database: Database, sender: RecordingPushClient, start: Callable[..., ReceiverProcess]
) -> None:
    """Other requests, complete or not, are refused and do not end the receiver."""
    receiver = start()
    requests = [
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
    answers = [receiver.send_raw(request) for request in requests]
    answers.append(
        receiver.send_raw(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 20000000\r\n\r\n" + b"x" * 9_000_000)
    )
    subscribe(database, url=receiver.url)
    emit(database, "c1")
    make_dispatcher(database, sender).deliver("s1")

    assert [answer for answer in answers if b" 2" in answer.partition(b"\r\n")[0]] == []
    assert ("00000001", "c1") in receiver.stored


@pytest.mark.parametrize("secret", [None, "", "whsec_"])
def test_without_a_secret_it_does_not_start(receiver: list[str | Path], tmp_path: Path, secret: str | None) -> None:
    """Without a secret, anybody could sign, so it exits with an error."""
    environment = {"PORT": "0", **({} if secret is None else {"SECRET": secret})}
    ended = subprocess.run(
        receiver, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )

    assert ended.returncode != 0
    assert ended.stderr.startswith("SECRET is not set")
