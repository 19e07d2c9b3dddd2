"""Health: does the process live, and is everything there that it needs? Part by part, and never waiting for long."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

from starlette.requests import Request
from starlette.responses import Response

from runtime.clock import Clock
from runtime.database import Database
from runtime.errors import OutOfReachError
from schemas.api_responses import Liveness, Readiness, ReadinessProblem
from service.http import problem_details
from service.http.operation import Operation, ResponseSpec
from service.http.responses import reply
from service.monitoring.bounded_probe import BoundedProbe
from service.monitoring.readiness_checks import DATABASE_PARTS, OK, UNKNOWN, check_all

ANSWER_SECONDS = 2.0
"""How long a part may take to say that it is well."""

DATABASE_FRESH = timedelta(seconds=0.5)
BROKER_FRESH = timedelta(seconds=2)


class Health:
    """The operations that a supervisor asks.

    Args:
        database: The database.
        clock: The present; tells how old a remembered answer is.
        ping_broker: Asks the broker for a sign of life; raises ``OutOfReachError``.
    """

    def __init__(self, *, database: Database, clock: Clock, ping_broker: Callable[[], None]) -> None:
        self._ping_broker = ping_broker
        self._rows = BoundedProbe(lambda: check_all(database), clock=clock, fresh=DATABASE_FRESH)
        self._broker = BoundedProbe(self._check_broker, clock=clock, fresh=BROKER_FRESH)

    def _check_broker(self) -> str:
        try:
            self._ping_broker()
        except OutOfReachError as error:
            return str(error)
        return OK

    async def check(self) -> dict[str, str]:
        """Return what is to be said of each part, within little more than ``ANSWER_SECONDS``."""
        rows, broker = await asyncio.gather(self._rows.answer(ANSWER_SECONDS), self._broker.answer(ANSWER_SECONDS))
        late = f"No answer within {ANSWER_SECONDS:g} s."
        hidden = dict.fromkeys(DATABASE_PARTS, UNKNOWN) | {"database": late}
        return {**(rows or hidden), "broker": broker or late}

    def operations(self) -> tuple[Operation, ...]:
        """Return what can be asked."""

        async def live(_request: Request, _query: object) -> Response:
            return reply(Liveness())

        async def ready(_request: Request, _query: object) -> Response:
            return answer(await self.check())

        return (
            Operation(
                method="GET",
                path="/healthz",
                name="getLiveness",
                summary="Whether the process lives.",
                need="nothing",
                answers=(ResponseSpec(description="It does.", shape=Liveness),),
                handle=live,
            ),
            Operation(
                method="GET",
                path="/readyz",
                name="getReadiness",
                summary="Whether everything is there that the service needs.",
                need="nothing",
                answers=(
                    ResponseSpec(description="It is.", shape=Readiness),
                    ResponseSpec(
                        status=503,
                        description="Some part is missing; `parts` says which, and what to do.",
                        shape=ReadinessProblem,
                        media_type=problem_details.MEDIA_TYPE,
                    ),
                ),
                handle=ready,
            ),
        )


def answer(parts: dict[str, str]) -> Response:
    """Return 200 where all parts are well, otherwise 503 with those that are not."""
    failing = {name: text for name, text in parts.items() if text not in {OK, UNKNOWN}}
    if not failing:
        return reply(Readiness(parts=parts))
    detail = " ".join(f"{name}: {text}" for name, text in failing.items())
    problem = problem_details.describe(503, detail)
    return problem_details.answer(ReadinessProblem(**problem.model_dump(), parts=parts))
