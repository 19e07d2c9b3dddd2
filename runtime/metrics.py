"""Prometheus metrics of a process: counters and histograms. Gauges of the backlog are in ``service/monitoring``."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily
from prometheus_client.registry import Collector


class Metrics:
    """The metrics of one process, in a registry of their own, so that tests and processes share none."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.webhooks = Counter(
            "meldwatch_webhooks", "Requests to the webhook route, by result.", ["result"], registry=self.registry
        )
        self.late_webhooks = Counter(
            "meldwatch_webhooks_signed_long_ago",
            "Webhooks whose signature was more than five minutes old.",
            registry=self.registry,
        )
        self.rejections = Counter(
            "meldwatch_rejections",
            "Refused webhooks, by whether they were kept for a later verification.",
            ["result"],
            registry=self.registry,
        )
        self.store_batch_size = Histogram(
            "meldwatch_store_batch_size",
            "Webhooks stored by one commit.",
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500),
            registry=self.registry,
        )
        self.failed_notifications = Counter(
            "meldwatch_worker_notifications_failed",
            "Messages to workers that the broker did not accept; the scheduler sends them again.",
            registry=self.registry,
        )
        self.reads = Counter("meldwatch_meld_reads", "Reads of Meld, by outcome.", ["outcome"], registry=self.registry)
        self.read_seconds = Histogram(
            "meldwatch_meld_read_seconds",
            "Duration of reads of Meld.",
            buckets=(0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20),
            registry=self.registry,
        )
        self.discarded_reads = Counter(
            "meldwatch_reads_discarded",
            "Reads whose result was discarded because their lease had expired and another worker had taken over.",
            registry=self.registry,
        )
        self.events = Counter("meldwatch_events", "Events emitted, by type.", ["type"], registry=self.registry)
        self.streams = Gauge("meldwatch_streams", "Open event streams (SSE).", registry=self.registry)
        self.pushes = Counter(
            "meldwatch_pushes", "Pushes to subscribers, by result.", ["result"], registry=self.registry
        )
        self.push_seconds = Histogram(
            "meldwatch_push_seconds",
            "Duration of pushes.",
            buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20),
            registry=self.registry,
        )
        self.discarded_pushes = Counter(
            "meldwatch_pushes_discarded",
            "Pushes whose result was discarded because their lease had expired.",
            registry=self.registry,
        )
        self.pruned = Counter(
            "meldwatch_rows_pruned",
            "Rows that retention deleted, by the setting that had kept them; for bodies, those cleared.",
            ["kind"],
            registry=self.registry,
        )
        deprecated = {
            "meldwatch_worker_calls_lost": self.failed_notifications,
            "meldwatch_reads_outrun": self.discarded_reads,
            "meldwatch_pushes_overtaken": self.discarded_pushes,
        }
        self.registry.register(DeprecatedCounters(deprecated))


class DeprecatedCounters(Collector):
    """Exposes counters under their old names as well, with the same values, for one release.

    Args:
        counters: Counters without labels, by their old names.
    """

    def __init__(self, counters: dict[str, Counter]) -> None:
        self._counters = counters

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield a metric family for each old name."""
        for old_name, counter in self._counters.items():
            (family,) = counter.collect()
            samples = {sample.name.removeprefix(family.name): sample.value for sample in family.samples}
            yield CounterMetricFamily(
                old_name, f"Deprecated: use {family.name}_total.", samples["_total"], created=samples["_created"]
            )
