"""Events: the feed, read from a position on, and waited for where there is nothing yet."""

import asyncio

from sqlmodel import col, select
from starlette.requests import Request
from starlette.responses import Response

from runtime.database import Database
from schemas import tables
from schemas.api_queries import EventQuery
from schemas.api_responses import EventPage
from schemas.events import Event
from service.feed import notifier
from service.http.operation import Operation, ResponseSpec
from service.http.responses import dump, reply
from service.http.threadpool import ThreadPool


class Events:
    """The operations on the feed.

    Args:
        database: The database.
        threads: Where the work is done.
        growth: Tells when the feed has grown.
    """

    def __init__(self, *, database: Database, threads: ThreadPool, growth: notifier.FeedNotifier) -> None:
        self._database = database
        self._threads = threads
        self._growth = growth

    def find(self, query: EventQuery, *, beyond: int) -> tuple[list[Event], int]:
        """Return the first matching events beyond a position, and how far the feed had been looked through at least.

        Where no event matched, none up to there ever will: a later look can begin there.
        """
        statement = select(tables.EventRow).where(col(tables.EventRow.position) > beyond)
        if query.type is not None:
            statement = statement.where(tables.EventRow.type == query.type)
        if query.connection_id is not None:
            statement = statement.where(tables.EventRow.connection_id == query.connection_id)
        with self._database.read() as session:
            end = notifier.position(session)  # before the events, so that none that it counts can be missing from them
            rows = session.exec(statement.order_by(col(tables.EventRow.position)).limit(query.limit)).all()
        return [Event.from_row(row) for row in rows], end

    async def follow(self, query: EventQuery) -> EventPage:
        """Return a page of the feed; where it is empty, wait for events, without a thread, as long as the query says.

        ``next`` is the position of the last event, and stays where it was where there is none, also with filters: so
        it never passes an event that is not committed yet.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + query.wait
        beyond = query.after
        while True:
            events, end = await self._threads.run(self.find, query, beyond=beyond)
            left = deadline - loop.time()
            if events or left <= 0 or self._growth.is_closed:
                return EventPage(events=events, next=events[-1].position if events else query.after)
            beyond = max(beyond, end)
            await self._growth.wait(beyond, left)

    def operations(self) -> tuple[Operation, ...]:
        """Return what can be asked of the API."""

        async def handle(_request: Request, query: EventQuery) -> Response:
            return reply(await self._threads.run(dump, await self.follow(query)))

        return (
            Operation(
                method="GET",
                path="/api/events",
                name="listEvents",
                summary="The feed of events behind a position, in commit order; waits for the next one where asked to.",
                need="read",
                query=EventQuery,
                answers=(ResponseSpec(description="A page of the feed.", shape=EventPage),),
                handle=handle,
            ),
        )
