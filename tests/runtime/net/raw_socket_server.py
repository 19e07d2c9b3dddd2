"""HTTP server on raw sockets that can violate the protocol, for tests of clients."""

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

END_OF_HEAD = b"\r\n\r\n"


class Peer:
    """One connection, from the server's side."""

    def __init__(self, stream: socket.socket, server: "Loopback") -> None:
        self.stream = stream
        self.server = server

    def request(self) -> str:
        """Return the head of the next request; "" if the client has disconnected."""
        head = b""
        while END_OF_HEAD not in head:
            if not (chunk := self.stream.recv(65536)):
                return ""
            head += chunk
        self.server.requests.append(head.decode("latin-1"))
        return self.server.requests[-1]

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.stream.sendall(data)

    def trickle(self, chunks: Iterable[bytes], every: float = 0.05) -> None:
        """Send chunk after chunk, slowly, until the client disconnects or the server closes."""
        for chunk in chunks:
            if self.server.closing.wait(every):
                return
            self.send(chunk)

    def hang(self) -> None:
        """Send nothing until the server closes."""
        self.server.closing.wait()


Handler = Callable[[Peer], None]


class Loopback:
    """Serves each connection in a thread of its own, by the next of its handlers; the last one serves all others."""

    def __init__(self, handlers: list[Handler]) -> None:
        self.requests: list[str] = []
        self.connections = 0
        self.closing = threading.Event()
        self._handlers = handlers
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._streams: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                stream, _ = self._socket.accept()
            except OSError:
                return
            handler = self._handlers[min(self.connections, len(self._handlers) - 1)]
            self.connections += 1
            self._streams.append(stream)
            thread = threading.Thread(target=self._serve, args=(stream, handler))
            self._threads.append(thread)
            thread.start()

    def _serve(self, stream: socket.socket, handler: Handler) -> None:
        with stream, suppress(OSError):
            handler(Peer(stream, self))

    def close(self) -> None:
        """End all connections."""
        self.closing.set()
        for stream in (self._socket, *self._streams):
            with suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in self._threads:
            thread.join()


@contextmanager
def serving(*handlers: Handler) -> Iterator[Loopback]:
    """Run a server."""
    server = Loopback(list(handlers))
    try:
        yield server
    finally:
        server.close()


def answer(status: int = 200, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    """Return a complete response."""
    lines = {"Content-Length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status} Whatever\r\n{head}\r\n".encode() + body


def repeating(*answers: bytes) -> Handler:
    """Return a handler that sends one of the responses to each request on a connection, and repeats the last one."""

    def handle(peer: Peer) -> None:
        remaining = list(answers)
        while peer.request():
            peer.send(remaining.pop(0) if len(remaining) > 1 else remaining[0])

    return handle
