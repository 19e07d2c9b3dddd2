"""GET /api/events: list the feed of events behind a position, with long poll."""

import asyncio

from sqlmodel import col, select
from starlette.requests import Request
from starlette.responses import Response

from runtime.database import Database
from schemas.api_queries import EventQuery
from schemas.api_responses import EventPage
from schemas.events import Event
from schemas.tables import EventRow
from service.feed.notifier import FeedNotifier, last_position
from service.http.operation import Operation, ResponseSpec
from service.http.pagination import PagedList, equal
from service.http.responses import make_response, to_json
from service.http.threadpool import ThreadPool

EVENTS = PagedList(
    statement=select(EventRow),
    key=col(EventRow.position),
    query_model=EventQuery,
    filters={"type": equal(EventRow.type), "connection_id": equal(EventRow.connection_id)},
    page_model=EventPage,
)


def read_feed(database: Database, query: EventQuery, *, after: int) -> tuple[list[Event], int]:
    """Return the first matching events behind a position, and a position up to which the feed was searched.

    If no event matched, no event up to that position will ever match: the next search can begin there.
    """
    with database.read() as session:
        # Read before the events: every event up to this position is visible to the second statement.
        end = last_position(session)
        rows = session.exec(EVENTS.select(query, after).limit(query.limit)).all()
    return [Event.from_row(row) for row in rows], end


class EventFeed:
    """The API operation of the feed, with long poll.

    Args:
        database: The database.
        threads: Where database queries run.
        notifier: Notifies waiting readers when the feed has grown.
    """

    def __init__(self, *, database: Database, threads: ThreadPool, notifier: FeedNotifier) -> None:
        self._database = database
        self._threads = threads
        self._notifier = notifier

    async def poll(self, query: EventQuery) -> EventPage:
        """Return a page of the feed. If it is empty, wait for events up to ``query.wait`` seconds, without a thread.

        ``next`` is the position of the last event. If there is no event, it stays at ``query.after``, also with
        filters: so it never passes an event that is not committed yet.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + query.wait
        after = query.after
        while True:
            events, end = await self._threads.run(read_feed, self._database, query, after=after)
            remaining = deadline - loop.time()
            if events or remaining <= 0 or self._notifier.is_closed:
                return EventPage(events=events, next=events[-1].position if events else query.after)
            after = max(after, end)
            await self._notifier.wait(after, remaining)

    def operations(self) -> tuple[Operation, ...]:
        """Return the API operation of the feed."""

        async def handle(_request: Request, query: EventQuery) -> Response:
            return make_response(await self._threads.run(to_json, await self.poll(query)))

        return (
            Operation(
                method="GET",
                path="/api/events",
                operation_id="listEvents",
                summary="List the events of the feed behind a position, in commit order; `wait` is a long poll.",
                access="read",
                query_model=EventQuery,
                responses=(ResponseSpec(description="A page of the feed.", model=EventPage),),
                handler=handle,
            ),
        )
