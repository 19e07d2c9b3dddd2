"""Health endpoints: liveness (GET /healthz) and readiness (GET /readyz), each check with a timeout."""

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
from service.http.responses import make_response
from service.monitoring.bounded_probe import BoundedProbe
from service.monitoring.readiness_checks import (
    CHECK_TIMEOUT_SECONDS,
    DATABASE_CHECKS,
    OK,
    UNKNOWN,
    run_database_checks,
)

DATABASE_RESULT_MAX_AGE = timedelta(seconds=0.5)
BROKER_RESULT_MAX_AGE = timedelta(seconds=2)


class HealthEndpoints:
    """The operations for load balancers and supervisors.

    Args:
        database: The database.
        clock: Returns the present time; limits the age of cached results.
        ping_broker: Checks that the broker answers; raises ``OutOfReachError``.
    """

    def __init__(self, *, database: Database, clock: Clock, ping_broker: Callable[[], None]) -> None:
        self._ping_broker = ping_broker
        self._database_probe = BoundedProbe(
            lambda: run_database_checks(database), clock=clock, max_age=DATABASE_RESULT_MAX_AGE
        )
        self._broker_probe = BoundedProbe(self._check_broker, clock=clock, max_age=BROKER_RESULT_MAX_AGE)

    def _check_broker(self) -> str:
        try:
            self._ping_broker()
        except OutOfReachError as error:
            return str(error)
        return OK

    async def check(self) -> dict[str, str]:
        """Return the result of each check by name, within little more than ``CHECK_TIMEOUT_SECONDS``."""
        database, broker = await asyncio.gather(
            self._database_probe.result(CHECK_TIMEOUT_SECONDS), self._broker_probe.result(CHECK_TIMEOUT_SECONDS)
        )
        timeout = f"No answer within {CHECK_TIMEOUT_SECONDS:g} s."
        no_database = dict.fromkeys(DATABASE_CHECKS, UNKNOWN) | {"database": timeout}
        return {**(database or no_database), "broker": broker or timeout}

    def operations(self) -> tuple[Operation, ...]:
        """Return the operations of the API."""

        async def get_liveness(_request: Request, _query: object) -> Response:
            return make_response(Liveness())

        async def get_readiness(_request: Request, _query: object) -> Response:
            return readiness_response(await self.check())

        return (
            Operation(
                method="GET",
                path="/healthz",
                operation_id="getLiveness",
                summary="Whether the process lives.",
                access="public",
                responses=(ResponseSpec(description="The process lives.", model=Liveness),),
                handler=get_liveness,
            ),
            Operation(
                method="GET",
                path="/readyz",
                operation_id="getReadiness",
                summary="Whether the service can work: database, migrations, broker, scheduler, backlog, Meld.",
                access="public",
                responses=(
                    ResponseSpec(description="All checks succeeded.", model=Readiness),
                    ResponseSpec(
                        status=503,
                        description="A check failed; `parts` has the result of each, with what to do.",
                        model=ReadinessProblem,
                        media_type=problem_details.MEDIA_TYPE,
                    ),
                ),
                handler=get_readiness,
            ),
        )


def readiness_response(results: dict[str, str]) -> Response:
    """Return 200 if no check failed, otherwise 503 with the failed ones in the detail."""
    failed = {name: text for name, text in results.items() if text not in {OK, UNKNOWN}}
    if not failed:
        return make_response(Readiness(parts=results))
    detail = " ".join(f"{name}: {text}" for name, text in failed.items())
    problem = problem_details.make_problem(503, detail)
    return problem_details.problem_response(ReadinessProblem(**problem.model_dump(), parts=results))
