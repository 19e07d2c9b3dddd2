"""Stream: the feed as server-sent events, one answer that goes on for as long as its reader stays.

Whatever is sent bears the position to go on from, also where no event matched: a reader that comes back with it misses
nothing and sees nothing twice. A slow reader is waited for, with no more than one page in memory for it.
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
from schemas.api_queries import LARGEST_POSITION, EventQuery, StreamQuery
from schemas.events import Event
from service.errors import CrowdedError, QueryError
from service.feed import notifier
from service.http.operation import Operation, ResponseSpec
from service.http.responses import SAFE
from service.http.threadpool import ThreadPool
from service.resources.events import Events

MEDIA_TYPE = "text/event-stream"

MOST_STREAMS = 200
"""Open at once in one process."""

HEARTBEAT_SECONDS = 15.0
"""The longest silence: proxies and readers take a longer one for death."""

FAILED_SECONDS = 1.0
"""The pause after a look that failed."""

THREADS = 2
"""In which all streams of a process look for events: however many catch up with a long feed, others are answered."""

RETRY_MILLISECONDS = 1000
"""What readers are told to wait before they come back."""

PAGE = 100

_POSITION = re.compile(r"[0-9]{1,19}")

# In JSON they may stand as they are; but they end a line for readers that split by more than server-sent events do.
_LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}


def render(event: Event) -> str:
    """Return an event as it is sent: without a name, since its type is in it, so that one listener hears of all."""
    return f"id: {event.position}\ndata: {event.model_dump_json().translate(_LINE_ENDS)}\n\n"


def beat(position: int) -> str:
    """Return what is sent where there is nothing to send: no event, but the position to go on from."""
    return f":\nid: {position}\n\n"


@dataclass(frozen=True, slots=True)
class _Look:
    """What a look found, as text, and how far it has seen everything; or that the database did not answer."""

    text: str = ""
    end: int = 0
    has_more: bool = False
    is_good: bool = True


class EventStreams:
    """The operation, and all streams that are open.

    Args:
        database: The database.
        threads: Where the work is done; of their own, see ``THREADS``.
        events: Finds events.
        growth: Tells when the feed has grown, and when the process ends.
        metrics: Shows how many are open.
        most: How many may be open at once.
        heartbeat_seconds: The longest silence.
    """

    def __init__(
        self,
        *,
        database: Database,
        threads: ThreadPool,
        events: Events,
        growth: notifier.FeedNotifier,
        metrics: Metrics,
        most: int = MOST_STREAMS,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._database = database
        self._threads = threads
        self._events = events
        self._growth = growth
        self._metrics = metrics
        self._most = most
        self._heartbeat_seconds = heartbeat_seconds
        self._open = 0
        self._looks: dict[tuple[EventQuery, int], asyncio.Future[_Look]] = {}

    async def chunks(self, query: StreamQuery, after: int) -> AsyncGenerator[str]:
        """Yield what is sent to a reader, page by page behind a position, until the process ends."""
        loop = asyncio.get_running_loop()
        asked = EventQuery(limit=PAGE, type=query.type, connection_id=query.connection_id)
        yield f"retry: {RETRY_MILLISECONDS}\n{beat(after)}"
        due = loop.time() + self._heartbeat_seconds
        while not self._growth.is_closed:
            look = await self._look(asked, after)
            after = max(after, look.end)
            text = look.text or (beat(after) if loop.time() >= due else "")
            if text:
                yield text
                due = loop.time() + self._heartbeat_seconds
            if not look.is_good:
                await self._growth.wait(LARGEST_POSITION, FAILED_SECONDS)
            elif not look.has_more:
                await self._growth.wait(after, due - loop.time())

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take one of the places that there are, for as long as the block runs.

        Raises:
            CrowdedError: Where all are taken.
        """
        if self._open >= self._most:
            raise CrowdedError
        self._open += 1
        self._metrics.streams.inc()
        try:
            yield
        finally:
            self._open -= 1
            self._metrics.streams.dec()

    def operations(self) -> tuple[Operation, ...]:
        """Return what can be asked of the API."""

        async def handle(request: Request, query: StreamQuery) -> Response:
            after = _resumed(request)
            if after is None:
                after = query.after
            if after is None:
                after = await self._threads.run(self._end)
            return EventStreamResponse(self.chunks(query, after), self.place)

        return (
            Operation(
                method="GET",
                path="/api/events/stream",
                name="streamEvents",
                summary="The feed as server-sent events: those behind a position, and then each when it is committed.",
                need="read",
                query=StreamQuery,
                hints=(("Last-Event-ID", "The position to go on from; goes before `after`."),),
                answers=(
                    ResponseSpec(
                        description="Events without end: `id` is the position, `data` the event. One without `data`"
                        " comes at the beginning and after every silence, and only says where to go on from.",
                        media_type=MEDIA_TYPE,
                    ),
                ),
                problems=(503,),
                handle=handle,
            ),
        )

    async def _look(self, asked: EventQuery, beyond: int) -> _Look:
        """Look for the next events, together with all streams that look for the same just now.

        Who joins a look that has begun may miss the event that woke it; it is woken again, since the feed has grown.
        """
        key = (asked, beyond)
        if key not in self._looks:
            self._looks[key] = asyncio.ensure_future(self._threads.run(self._find, asked, beyond))
            self._looks[key].add_done_callback(lambda _look: self._looks.pop(key))
        # Who goes away does not take the look from the others.
        return await asyncio.shield(self._looks[key])

    def _find(self, asked: EventQuery, beyond: int) -> _Look:
        try:
            found, end = self._events.find(asked, beyond=beyond)
        except OutOfReachError:
            # The stream goes on: browsers would give it up for good where they came back and were answered 503.
            return _Look(is_good=False)
        has_more = len(found) == PAGE
        last = found[-1].position if found else beyond
        # What was committed after the end was read may be among the events; who goes on from the end has it twice.
        return _Look("".join(map(render, found)), last if has_more else max(last, end), has_more=has_more)

    def _end(self) -> int:
        with self._database.read() as session:
            return notifier.position(session)


class EventStreamResponse(Response):
    """An answer that goes on until its source or its reader ends. It has a place for as long as it does.

    Args:
        chunks: What is sent.
        place: Takes a place; may raise, and then the answer is another.
    """

    media_type = MEDIA_TYPE

    def __init__(self, chunks: AsyncGenerator[str], place: Callable[[], AbstractContextManager[None]]) -> None:
        # The last is for a proxy that would otherwise collect a page before it passes anything on.
        super().__init__(headers={**SAFE, "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._chunks = chunks
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        with self._place():
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if scope["method"] != "HEAD":
                async with aclosing(self._chunks), create_task_group() as group:
                    group.start_soon(_watch, receive, group.cancel_scope)
                    async for chunk in self._chunks:
                        await send({"type": "http.response.body", "body": chunk.encode(), "more_body": True})
                    group.cancel_scope.cancel()
            await send({"type": "http.response.body"})


async def _watch(receive: Receive, scope: CancelScope) -> None:
    """End it when the reader has gone; it may be silent for long, and would hold a place."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _resumed(request: Request) -> int | None:
    """Return the position that the reader saw last, as server-sent events have it told."""
    given = request.headers.get("last-event-id")
    if not given:
        return None
    if not _POSITION.fullmatch(given) or int(given) > LARGEST_POSITION:
        raise QueryError("'Last-Event-ID' is no position. Send the `id` that came last, or none.")
    return int(given)
