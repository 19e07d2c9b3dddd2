"""Metrics endpoint (GET /metrics): this process' counters and the database gauges in Prometheus' text format."""

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.requests import Request
from starlette.responses import Response

from runtime.clock import Clock
from runtime.database import Database
from runtime.metrics import Metrics
from service.http.operation import Operation, ResponseSpec
from service.http.responses import make_response
from service.http.threadpool import ThreadPool
from service.monitoring.database_gauges import DatabaseGaugeCollector, measure_gauges


def operations(*, database: Database, clock: Clock, threads: ThreadPool, metrics: Metrics) -> tuple[Operation, ...]:
    """Return the operation that Prometheus scrapes.

    Args:
        database: The database that the gauges are measured from.
        clock: Returns the present time; limits the age of cached gauges.
        threads: The threads that query the database.
        metrics: The counters of this process.
    """
    gauges = CollectorRegistry()
    gauges.register(DatabaseGaugeCollector(lambda: measure_gauges(database), clock))

    async def handle(_request: Request, _query: object) -> Response:
        text = await threads.run(lambda: generate_latest(metrics.registry) + generate_latest(gauges))
        return make_response(text, media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return (
        Operation(
            method="GET",
            path="/metrics",
            operation_id="getMetrics",
            summary="Counters of this process and gauges from the database, for Prometheus.",
            access="loopback",
            responses=(ResponseSpec(description="Prometheus text.", media_type="text/plain"),),
            handler=handle,
        ),
    )
