from collections.abc import Iterator

import pytest

from meldwatch.process.http_protocol import HEAD_SECONDS, MAX_HEAD_BYTES, BoundedHttpProtocol
from tests.meldwatch.process.echo_app import Echo
from tests.meldwatch.process.raw_http_client import Answer, Wire, request, serving
from tests.support.polling import eventually

SHORT_SECONDS = 0.3
MANY_BYTES = 4 * 1024 * 1024
"""Far more than a server reads at once."""


class ShortTimeoutProtocol(BoundedHttpProtocol):
    """The protocol with a short timeout."""

    head_seconds = SHORT_SECONDS


@pytest.fixture
def echo() -> Iterator[Echo]:
    """The application behind the server."""
    echo = Echo()
    yield echo
    echo.may_answer.set()


@pytest.fixture
def url(echo: Echo) -> Iterator[str]:
    """A server with the usual timeout."""
    with serving(echo.app) as url:
        yield url
        echo.may_answer.set()


@pytest.fixture
def short_timeout_url(echo: Echo) -> Iterator[str]:
    """A server with a short timeout."""
    with serving(echo.app, protocol=ShortTimeoutProtocol) as url:
        yield url
        echo.may_answer.set()


def head_of(size: int) -> bytes:
    """Return a request without a body whose head has this many bytes."""
    bare = len(request(b"", "X: ", path="/echo"))
    return request(b"", "X: " + "y" * (size - bare), path="/echo")


def statuses(*answers: Answer) -> list[int]:
    return [answer.status for answer in answers]


def test_a_head_may_take_ten_seconds() -> None:
    """The documented limit."""
    assert (BoundedHttpProtocol.head_seconds, HEAD_SECONDS) == (10, 10)


@pytest.mark.parametrize("pieces", [1, 7, 300])
def test_a_head_just_within_its_bound_is_read(url: str, pieces: int) -> None:
    """A head of nearly 32 KiB is answered, in one piece or in many."""
    head = head_of(MAX_HEAD_BYTES - 100)
    step = -(-len(head) // pieces)

    with Wire(url) as wire:
        for start in range(0, len(head), step):
            wire.send(head[start : start + step])
        answer = wire.answer()

    assert answer.status == 200


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(head_of(MAX_HEAD_BYTES + 300), id="one long header"),
        pytest.param(request(b"", *["a:"] * 7000, path="/echo"), id="many empty headers"),
        pytest.param(request(b"", path="/echo?" + "y" * MAX_HEAD_BYTES), id="a long path"),
        pytest.param(request(b"", "y" * MAX_HEAD_BYTES + ": 1", path="/echo"), id="a long name"),
    ],
)
def test_a_head_that_is_too_long_is_431_in_one_piece(url: str, echo: Echo, head: bytes) -> None:
    """A complete head of over 32 KiB is answered with 431, the connection closes, and the application gets nothing."""
    with Wire(url) as wire:
        wire.send(head)
        answer = wire.answer()

        assert (answer.status, answer.headers["connection"], wire.is_closed()) == (431, "close", True)
        assert echo.seen == []


@pytest.mark.parametrize("piece", [1_000, 20_000])
def test_a_head_that_is_too_long_is_431_in_pieces(url: str, echo: Echo, piece: int) -> None:
    """A head without an end is answered with 431 as soon as it has become too long."""
    with Wire(url) as wire:
        wire.send(b"GET /echo HTTP/1.1\r\nX: ")
        for _ in range(-(-MAX_HEAD_BYTES // piece)):
            wire.send(b"y" * piece)
        answer = wire.answer()

        assert (answer.status, wire.is_closed()) == (431, True)
        assert echo.seen == []


@pytest.mark.parametrize("beginning", [b"", b"P", b"POST /echo HTTP/1.1\r\n", request(b"", path="/echo")[:-2]])
def test_a_head_that_is_too_slow_is_408(short_timeout_url: str, echo: Echo, beginning: bytes) -> None:
    """A client that does not finish a head gets 408, however much of it has arrived."""
    with Wire(short_timeout_url) as wire:
        wire.send(beginning)
        answer = wire.answer()

        assert (answer.status, answer.headers["connection"], wire.is_closed()) == (408, "close", True)
        assert echo.seen == []


def test_slow_bytes_do_not_extend_the_timeout(short_timeout_url: str) -> None:
    """The timer of a head starts with its first byte; further bytes do not restart it (slowloris)."""
    with Wire(short_timeout_url) as wire:
        wire.send(b"GET /echo HTTP/1.1\r\nX: ")
        sent = 0
        while wire.is_silent(SHORT_SECONDS / 10):
            wire.send(b"y")
            sent += 1
            assert sent < 20

        assert wire.answer().status == 408


def test_a_second_head_that_is_too_slow_is_408(short_timeout_url: str) -> None:
    """The bound holds for every head on a connection, not for the first alone."""
    with Wire(short_timeout_url) as wire:
        wire.send(request(b"one", path="/echo"))
        first = wire.answer()
        wire.send(b"GET /ec")
        second = wire.answer()

        assert (statuses(first, second), wire.is_closed()) == ([200, 408], True)


def test_a_connection_may_be_idle_between_requests(short_timeout_url: str) -> None:
    """The timer of the next head starts with its first byte: an idle connection stays open."""
    with Wire(short_timeout_url) as wire:
        wire.send(request(b"one", path="/echo"))
        first = wire.answer()
        assert wire.is_silent(SHORT_SECONDS * 2)
        wire.send(request(b"two", path="/echo"))
        second = wire.answer()

    assert (first.body, second.body) == (b"one", b"two")


def test_requests_in_one_piece_are_answered_in_order(url: str) -> None:
    """Twenty requests that are sent at once get twenty answers, each its own."""
    bodies = [f"body {number}".encode() * number for number in range(20)]

    with Wire(url) as wire:
        wire.send(b"".join(request(body, path="/echo") for body in bodies))
        answered = [wire.answer().body for _ in bodies]

    assert answered == bodies


def test_the_size_is_counted_for_each_request(url: str) -> None:
    """Long but allowed heads, one after the other, do not add up; nor do bodies."""
    with Wire(url) as wire:
        answers = []
        for _ in range(5):
            wire.send(head_of(MAX_HEAD_BYTES - 100))
            answers.append(wire.answer())
            wire.send(request(b"x" * 100_000, path="/echo"))
            answers.append(wire.answer())

    assert statuses(*answers) == [200] * 10


def test_a_body_in_tiny_chunks_is_no_head(url: str) -> None:
    """The frames of chunks do not count, although they are longer than the body."""
    chunked = request(b"", "Transfer-Encoding: chunked", path="/echo") + b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"

    with Wire(url) as wire:
        wire.send(chunked)
        answer = wire.answer()

    assert answer.body == b"x" * 20_000


def test_no_request_after_a_refused_head_is_handled(url: str, echo: Echo) -> None:
    """A request right after a head that is too long is not handled: its client could not get a response."""
    with Wire(url) as wire:
        wire.send(head_of(MAX_HEAD_BYTES + 300) + request(b"", path="/ignore"))
        answer = wire.answer()

        assert (answer.status, wire.is_closed()) == (431, True)
        assert echo.seen == []


@pytest.mark.parametrize(
    "second",
    [
        pytest.param(head_of(MAX_HEAD_BYTES + 300), id="too long"),
        pytest.param(b"GET /ec", id="too slow"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00", id="no HTTP"),
    ],
)
def test_a_refusal_is_never_the_response_of_an_earlier_request(
    short_timeout_url: str, echo: Echo, second: bytes
) -> None:
    """If a bad head follows a request that still waits, the connection closes: a client could mix up the responses."""
    with Wire(short_timeout_url) as wire:
        wire.send(request(b"", path="/slow"))
        eventually(lambda: echo.seen)
        wire.send(second)

        assert wire.is_closed()


@pytest.mark.parametrize("rest", [pytest.param(b"", id="nothing"), pytest.param(b"x", id="one byte")])
def test_a_body_that_is_not_read_must_arrive_soon(short_timeout_url: str, echo: Echo, rest: bytes) -> None:
    """If a client gets its response before it has sent the body, and never sends it, the connection closes."""
    with Wire(short_timeout_url) as wire:
        wire.send(request(b"", "Content-Length: 10", path="/ignore"))
        answer = wire.answer()
        wire.send(rest)

        assert (answer.body, wire.is_closed()) == (b"ignored", True)


def test_a_body_may_arrive_after_the_response(url: str) -> None:
    """A client that sends its body late, as urllib3 may, keeps its connection."""
    with Wire(url) as wire:
        wire.send(request(b"", "Content-Length: 10", path="/ignore"))
        answers = [wire.answer()]
        wire.send(b"0123456789")
        wire.send(request(b"two", path="/echo"))
        answers.append(wire.answer())

    assert [answer.body for answer in answers] == [b"ignored", b"two"]


def test_a_connection_closes_after_a_late_body(short_timeout_url: str) -> None:
    """After a body that arrived after the response, the next head must come soon, or the connection closes."""
    with Wire(short_timeout_url) as wire:
        wire.send(request(b"", "Content-Length: 1", path="/ignore"))
        wire.answer()
        wire.send(b"x")
        answer = wire.answer()

        assert (answer.status, wire.is_closed()) == (408, True)


def test_trailers_are_dropped(url: str) -> None:
    """Trailers add no header to a request whose headers were limited and checked before (smuggling)."""
    chunked = request(b"", "Transfer-Encoding: chunked", path="/headers") + b"1\r\nx\r\n0\r\nMeld-Signature: y\r\n\r\n"

    with Wire(url) as wire:
        wire.send(chunked)
        answer = wire.answer()

    assert answer.body == b"host,transfer-encoding"


@pytest.mark.parametrize("line", [b"a: b\r\n", b"y"], ids=["many", "one endless"])
@pytest.mark.parametrize("path", ["/echo", "/ignore"])
def test_endless_trailers_end_the_connection(url: str, path: str, line: bytes) -> None:
    """Trailers have the size limit of a head, whether or not the application reads the body."""
    with Wire(url) as wire:
        wire.send(request(b"", "Transfer-Encoding: chunked", path=path) + b"1\r\nx\r\n0\r\nX: ")
        wire.send_until_closed(line * (MANY_BYTES // len(line)))

        eventually(lambda: not wire.is_open(), seconds=3)


def test_an_endless_chunk_extension_ends_the_connection(url: str) -> None:
    """Chunk extensions have the same limit."""
    with Wire(url) as wire:
        wire.send(request(b"", "Transfer-Encoding: chunked", path="/echo") + b"1;")
        wire.send_until_closed(b"y" * MANY_BYTES)

        eventually(lambda: not wire.is_open(), seconds=3)


@pytest.mark.parametrize("framing", ["Content-Length: 33", "Transfer-Encoding: chunked"])
def test_a_body_after_an_offered_upgrade_is_no_request(url: str, echo: Echo, framing: str) -> None:
    """The parser reads no body of a request that offers an upgrade: it would be the next request (smuggling)."""
    smuggled = b"GET /ignore HTTP/1.1\r\nHost: x\r\n\r\n"

    with Wire(url) as wire:
        wire.send(request(b"", "Connection: Upgrade", "Upgrade: h2c", framing, path="/echo"))
        answer = wire.answer()
        wire.send_until_closed(smuggled)

        assert (answer.status, wire.is_closed()) == (501, True)
        assert echo.seen == []


def test_an_offered_upgrade_without_a_body_is_declined(url: str) -> None:
    """A request that offers h2c or a web socket is answered as HTTP/1.1."""
    with Wire(url) as wire:
        answers = []
        for protocol in ("h2c", "websocket"):
            wire.send(request(b"", "Connection: Upgrade", f"Upgrade: {protocol}", method="GET", path="/ignore"))
            answers.append(wire.answer())

    assert statuses(*answers) == [200, 200]


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(["Content-Length: 5", "Transfer-Encoding: chunked"], id="length and chunks"),
        pytest.param(["Transfer-Encoding: chunked", "Content-Length: 5"], id="chunks and length"),
        pytest.param(["Content-Length: 5", "Content-Length: 6"], id="two lengths"),
        pytest.param(["Content-Length: 5, 6"], id="two lengths in one"),
        pytest.param(["Content-Length: +5"], id="a sign"),
        pytest.param(["Content-Length: -1"], id="negative"),
        pytest.param(["Content-Length: 0x5"], id="hexadecimal"),
        pytest.param(["Content-Length: 99999999999999999999999"], id="too large"),
        pytest.param(["Content-Length : 5"], id="a space before the colon"),
        pytest.param(["Transfer-Encoding: xchunked"], id="an unknown encoding"),
        pytest.param(["Transfer-Encoding: chunked, identity"], id="chunks within"),
        pytest.param(["Transfer-Encoding : chunked"], id="chunks behind a space"),
        pytest.param(["Content-Length: 5", "X: a", " b"], id="a folded line"),
        pytest.param(["Content-Length: 5", "X: a\rY: b"], id="a bare return"),
        pytest.param(["Content-Length: 5", "X: a\x00b"], id="NUL"),
    ],
)
def test_ambiguous_framing_is_refused(url: str, echo: Echo, lines: list[str]) -> None:
    """If two parsers could disagree on where a body ends, the response is 400, and the connection closes."""
    with Wire(url) as wire:
        wire.send(request(b"0\r\n\r\n", *lines, path="/echo") + request(b"", path="/ignore"))
        answer = wire.answer()

        assert (answer.status, wire.is_closed()) == (400, True)
        assert "POST /ignore" not in echo.seen


@pytest.mark.parametrize(
    "frames",
    [b"5\nhello\r\n0\r\n\r\n", b"5 \r\nhello\r\n0\r\n\r\n", b"-5\r\nhello", b"1" * 20 + b"\r\nhello", b"5\r\nhelloX"],
)
def test_invalid_chunks_close_the_connection(url: str, frames: bytes) -> None:
    """Chunks that are not framed exactly are 400, and what follows is not read."""
    with Wire(url) as wire:
        wire.send(request(b"", "Transfer-Encoding: chunked", path="/echo") + frames + request(b"", path="/ignore"))
        answer = wire.answer()

        assert (answer.status, wire.is_closed()) == (400, True)


def test_expect_100_continue_is_answered(url: str) -> None:
    """``Expect: 100-continue`` is answered before the body is read."""
    with Wire(url) as wire:
        wire.send(request(b"", "Expect: 100-continue", "Content-Length: 5", path="/echo"))
        first = wire.answer()
        wire.send(b"hello")
        second = wire.answer()

    assert (first.status, second.body) == (100, b"hello")


def test_many_slow_clients_delay_no_other_client(short_timeout_url: str) -> None:
    """While many connections are held open with half a head, a whole request is answered at once."""
    wires = [Wire(short_timeout_url) for _ in range(200)]
    for wire in wires:
        wire.send(b"POST /echo HTTP/1.1\r\n")

    with Wire(short_timeout_url) as fast:
        fast.send(request(b"hello", path="/echo"))
        answer = fast.answer()
    refused = [wire.answer().status for wire in wires]
    for wire in wires:
        wire.close()

    assert (answer.body, refused) == (b"hello", [408] * 200)
