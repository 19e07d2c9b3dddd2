"""GET /api/events/stream: the feed as server-sent events (SSE), with heartbeat and resume by ``Last-Event-ID``.

Each block that is sent carries the position to resume from, also if no event matched: a reader that reconnects with it
misses no event and gets none twice. The stream waits for a slow reader, with at most one page in memory for it.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractContextManager, aclosing, contextmanager
from dataclasses import dataclass

from anyio import CancelScope, create_task_group
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from runtime.database import Database
from runtime.errors import OutOfReachError
from runtime.metrics import Metrics
from schemas.api_queries import MAX_POSITION, EventQuery, StreamQuery
from schemas.events import Event
from service.errors import InvalidQueryError, TooManyStreamsError
from service.feed.notifier import FeedNotifier, last_position
from service.http.operation import Operation, ResponseSpec
from service.http.responses import SECURITY_HEADERS
from service.http.threadpool import ThreadPool
from service.resources.events import read_feed

MEDIA_TYPE = "text/event-stream"

MAX_STREAMS = 200
"""Streams that are open at once in one process."""

HEARTBEAT_SECONDS = 15.0
"""The longest silence on a stream: proxies and readers close a connection that is silent for longer."""

RETRY_SECONDS = 1.0
"""The delay after a database query that failed."""

MAX_STREAM_THREADS = 2
"""Threads in which all streams of a process read the feed. Streams that catch up leave threads for other requests."""

RETRY_MILLISECONDS = 1000
"""The delay before a reader reconnects, sent to the reader as ``retry``."""

PAGE_SIZE = 100

_POSITION = re.compile(r"[0-9]{1,19}")

# JSON may contain these characters unescaped. Some readers of server-sent events take them for the end of a line.
_LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}


def encode_event(event: Event) -> str:
    """Return an event as it is sent: without an event name, so that one listener receives all types."""
    return f"id: {event.position}\ndata: {event.model_dump_json().translate(_LINE_ENDS)}\n\n"


def encode_heartbeat(position: int) -> str:
    """Return a heartbeat: no event, but the position to resume from."""
    return f":\nid: {position}\n\n"


@dataclass(frozen=True, slots=True)
class _Batch:
    """Encoded events behind a position, and the position up to which the feed was searched; or a failed query."""

    text: str = ""
    end: int = 0
    has_more: bool = False
    is_ok: bool = True


class EventStreams:
    """The API operation of the stream, and all streams that are open in this process.

    Args:
        database: The database.
        threads: Where database queries run; a pool of their own, see ``MAX_STREAM_THREADS``.
        notifier: Notifies waiting streams when the feed has grown, and when the process ends.
        metrics: Counts the open streams.
        max_streams: How many streams may be open at once.
        heartbeat_seconds: The longest silence on a stream.
    """

    def __init__(
        self,
        *,
        database: Database,
        threads: ThreadPool,
        notifier: FeedNotifier,
        metrics: Metrics,
        max_streams: int = MAX_STREAMS,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._database = database
        self._threads = threads
        self._notifier = notifier
        self._metrics = metrics
        self._max_streams = max_streams
        self._heartbeat_seconds = heartbeat_seconds
        self._open = 0
        self._reads: dict[tuple[EventQuery, int], asyncio.Future[_Batch]] = {}

    async def chunks(self, query: StreamQuery, after: int) -> AsyncGenerator[str]:
        """Yield what is sent to a reader: one page after another behind a position, until the process ends."""
        loop = asyncio.get_running_loop()
        page = EventQuery(limit=PAGE_SIZE, type=query.type, connection_id=query.connection_id)
        yield f"retry: {RETRY_MILLISECONDS}\n{encode_heartbeat(after)}"
        due = loop.time() + self._heartbeat_seconds
        while not self._notifier.is_closed:
            batch = await self._read_shared(page, after)
            after = max(after, batch.end)
            text = batch.text or (encode_heartbeat(after) if loop.time() >= due else "")
            if text:
                yield text
                due = loop.time() + self._heartbeat_seconds
            if not batch.is_ok:
                await self._notifier.wait(MAX_POSITION, RETRY_SECONDS)
            elif not batch.has_more:
                await self._notifier.wait(after, due - loop.time())

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Occupy one of the slots for open streams while the block runs.

        Raises:
            TooManyStreamsError: If all slots are occupied.
        """
        if self._open >= self._max_streams:
            raise TooManyStreamsError
        self._open += 1
        self._metrics.streams.inc()
        try:
            yield
        finally:
            self._open -= 1
            self._metrics.streams.dec()

    def operations(self) -> tuple[Operation, ...]:
        """Return the API operation of the stream."""

        async def handle(request: Request, query: StreamQuery) -> Response:
            after = _get_last_event_id(request)
            if after is None:
                after = query.after
            if after is None:
                after = await self._threads.run(self._get_last_position)
            return EventStreamResponse(self.chunks(query, after), self.slot)

        return (
            Operation(
                method="GET",
                path="/api/events/stream",
                operation_id="streamEvents",
                summary="Stream the feed as server-sent events: the events behind a position, then new ones.",
                access="read",
                query_model=StreamQuery,
                optional_headers=(("Last-Event-ID", "The position to resume from; overrides `after`."),),
                responses=(
                    ResponseSpec(
                        description="An endless stream: `id` is the position, `data` the event. A block without `data`"
                        " comes at the beginning and after each silence; it carries the position to resume from.",
                        media_type=MEDIA_TYPE,
                    ),
                ),
                problem_statuses=(503,),
                handler=handle,
            ),
        )

    async def _read_shared(self, page: EventQuery, after: int) -> _Batch:
        """Read the next events, in one query for all streams that wait for the same events.

        A stream that joins a query under way may miss the event that woke it. The notifier wakes it again, because the
        feed has grown since.
        """
        key = (page, after)
        if key not in self._reads:
            self._reads[key] = asyncio.ensure_future(self._threads.run(self._read, page, after))
            self._reads[key].add_done_callback(lambda _read: self._reads.pop(key))
        # A reader that disconnects must not cancel the query of the others.
        return await asyncio.shield(self._reads[key])

    def _read(self, page: EventQuery, after: int) -> _Batch:
        try:
            events, end = read_feed(self._database, page, after=after)
        except OutOfReachError:
            # The stream stays open: a browser that reconnects and gets 503 would never try again.
            return _Batch(is_ok=False)
        has_more = len(events) == PAGE_SIZE
        last = events[-1].position if events else after
        # The page may hold events that were committed after ``end`` was read: resumed from ``end``, they would be sent
        # twice.
        return _Batch("".join(map(encode_event, events)), last if has_more else max(last, end), has_more=has_more)

    def _get_last_position(self) -> int:
        with self._database.read() as session:
            return last_position(session)


class EventStreamResponse(Response):
    """A response that lasts until its source ends or its reader disconnects. It occupies a slot for that time.

    Args:
        chunks: What is sent.
        slot: Occupies a slot. If it raises, the error is the response.
    """

    media_type = MEDIA_TYPE

    def __init__(self, chunks: AsyncGenerator[str], slot: Callable[[], AbstractContextManager[None]]) -> None:
        # X-Accel-Buffering is for a proxy that would otherwise buffer a page before it passes anything on.
        super().__init__(headers={**SECURITY_HEADERS, "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._chunks = chunks
        self._slot = slot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        with self._slot():
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if scope["method"] != "HEAD":
                async with aclosing(self._chunks), create_task_group() as group:
                    group.start_soon(_cancel_on_disconnect, receive, group.cancel_scope)
                    async for chunk in self._chunks:
                        await send({"type": "http.response.body", "body": chunk.encode(), "more_body": True})
                    group.cancel_scope.cancel()
            await send({"type": "http.response.body"})


async def _cancel_on_disconnect(receive: Receive, scope: CancelScope) -> None:
    """Cancel the response when the reader disconnects. A silent stream would occupy its slot for long otherwise."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _get_last_event_id(request: Request) -> int | None:
    """Return the position that the reader received last: the header that server-sent events define for a resume."""
    given = request.headers.get("last-event-id")
    if not given:
        return None
    if not _POSITION.fullmatch(given) or int(given) > MAX_POSITION:
        raise InvalidQueryError("'Last-Event-ID' is not a position. Send the last `id` you received, or no header.")
    return int(given)
