"""An HTTP server with the feed alone: list and stream of events."""

from typing import Any

from meldwatch.process.http_server import HttpServer
from runtime.database import Database
from runtime.metrics import Metrics
from service.app import assemble_app
from service.feed.notifier import FeedNotifier
from service.http.auth import TokenAuth
from service.http.threadpool import ThreadPool
from service.resources.event_stream import EventStreams
from service.resources.events import EventFeed
from tests.service.conftest import READ, AppFactory
from tests.support.http import CLIENT
from tests.support.sse_reader import SseReader


class Service:
    """A running server with list and stream, and the readers of its streams."""

    def __init__(self, database: Database, **values: Any) -> None:
        port = values.pop("port", 0)
        self.database = database
        self.metrics = Metrics()
        self.feed = FeedNotifier(database=database, poll_seconds=values.pop("poll_seconds", 0.05))
        threads = ThreadPool()
        feed = EventFeed(database=database, threads=threads, notifier=self.feed)
        self.streams = EventStreams(
            database=database, threads=threads, notifier=self.feed, metrics=self.metrics, **values
        )
        settings = AppFactory(database=database).settings
        access = TokenAuth(read_tokens=settings.read_tokens, admin_tokens=settings.admin_tokens)
        app = assemble_app((*feed.operations(), *self.streams.operations()), access)
        self.server = HttpServer(app, host="127.0.0.1", port=port, on_stop=self.feed.close)
        self.server.start()
        self._readers: list[SseReader] = []

    def read(self, token: str = READ, **values: Any) -> SseReader:
        """Open a stream, and wait for the block that has its first position."""
        reader = SseReader(self.server.url, token, **values)
        self._readers.append(reader)
        if reader.status == 200:
            reader.wait_for_begin()
        return reader

    def events(self, **query: Any) -> list[dict[str, Any]]:
        """Return the events of the list."""
        headers = {"Authorization": f"Bearer {READ}"}
        answer = CLIENT.get(self.server.url + "/api/events", params={"limit": 1000, **query}, headers=headers)
        return list(answer.json()["events"])

    def open(self) -> int:
        """Return the number of open streams, from the metric."""
        return int(self.metrics.registry.get_sample_value("meldwatch_streams") or 0)

    def close(self) -> None:
        """Close the readers, and stop the server."""
        for reader in self._readers:
            reader.close()
        if self.server.is_alive():
            self.server.stop()
