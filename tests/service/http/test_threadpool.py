import asyncio
import threading

import pytest
from starlette.requests import Request
from starlette.responses import Response

from schemas.api_queries import Query
from schemas.api_responses import Liveness
from service.http.threadpool import ThreadPool
from tests.support.polling import eventually


def test_functions_run_outside_the_event_loop() -> None:
    """The event loop stays free; results and exceptions reach the caller."""
    threads = ThreadPool()

    async def scenario() -> tuple[int, int]:
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 / 0)
        return await threads.run(threading.get_ident), threading.get_ident()

    there, here = asyncio.run(scenario())

    assert there != here


def test_the_number_of_threads_is_bounded() -> None:
    """Further functions wait without a thread."""
    threads, may_end = ThreadPool(2), threading.Event()
    started: list[int] = []

    def work() -> None:
        started.append(1)
        assert may_end.wait(10)

    async def scenario() -> int:
        tasks = [asyncio.create_task(threads.run(work)) for _ in range(5)]
        await asyncio.to_thread(eventually, lambda: len(started) >= 2)
        most = len(started)
        may_end.set()
        await asyncio.gather(*tasks)
        return most

    assert (asyncio.run(scenario()), len(started)) == (2, 5)


def test_a_handler_answers_with_json() -> None:
    """Serialized from the model, with the given status."""
    handle = ThreadPool().handler(lambda _request, _query: Liveness(), status=202)

    async def scenario() -> Response:
        return await handle(Request({"type": "http"}), Query())

    response = asyncio.run(scenario())

    assert (response.status_code, response.body) == (202, b'{"status":"alive"}')
