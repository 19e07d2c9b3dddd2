import asyncio
import threading

import pytest
from starlette.requests import Request
from starlette.responses import Response

from schemas.api_queries import Query
from schemas.api_responses import Liveness
from service.http.threadpool import ThreadPool
from tests.support.polling import eventually


def test_work_is_done_beside_the_event_loop() -> None:
    """The thread of the loop stays free; what the work returns, and what it raises, comes back."""
    threads = ThreadPool()

    async def scene() -> tuple[int, int]:
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 / 0)
        return await threads.run(threading.get_ident), threading.get_ident()

    there, here = asyncio.run(scene())

    assert there != here


def test_no_more_than_so_many_work_at_once() -> None:
    """The others wait their turn, and hold no thread."""
    threads, may_end = ThreadPool(2), threading.Event()
    at_work: list[int] = []

    def work() -> None:
        at_work.append(1)
        assert may_end.wait(10)

    async def scene() -> int:
        tasks = [asyncio.create_task(threads.run(work)) for _ in range(5)]
        await asyncio.to_thread(eventually, lambda: len(at_work) >= 2)
        most = len(at_work)
        may_end.set()
        await asyncio.gather(*tasks)
        return most

    assert (asyncio.run(scene()), len(at_work)) == (2, 5)


def test_a_handler_answers_with_json() -> None:
    """Written from the shape, with the status that was asked for."""
    handle = ThreadPool().handler(lambda _request, _query: Liveness(), status=202)

    async def scene() -> Response:
        return await handle(Request({"type": "http"}), Query())

    response = asyncio.run(scene())

    assert (response.status_code, response.body) == (202, b'{"status":"alive"}')
