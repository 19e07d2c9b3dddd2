"""What a process counts while it works. Figures about the backlog come from the rows, see ``service/monitoring/metrics_endpoint.py``."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """What one process counts, in a registry of their own, so that tests and processes do not share any."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.webhooks = Counter(
            "meldwatch_webhooks",
            "Requests to the webhook route, by what became of them.",
            ["result"],
            registry=self.registry,
        )
        self.late_webhooks = Counter(
            "meldwatch_webhooks_signed_long_ago",
            "Webhooks whose signature time was more than five minutes old.",
            registry=self.registry,
        )
        self.rejections = Counter(
            "meldwatch_rejections",
            "Refused webhooks, by what became of the evidence.",
            ["result"],
            registry=self.registry,
        )
        self.batches = Histogram(
            "meldwatch_store_batch_size",
            "Webhooks stored by one commit.",
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500),
            registry=self.registry,
        )
        self.calls_lost = Counter(
            "meldwatch_worker_calls_lost",
            "Calls to workers that the broker did not take; the clock makes up for them.",
            registry=self.registry,
        )
        self.reads = Counter("meldwatch_meld_reads", "Reads of Meld, by outcome.", ["outcome"], registry=self.registry)
        self.read_seconds = Histogram(
            "meldwatch_meld_read_seconds",
            "How long reads of Meld took.",
            buckets=(0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20),
            registry=self.registry,
        )
        self.outrun = Counter(
            "meldwatch_reads_outrun",
            "Reads thrown away because a newer claim on the connection existed.",
            registry=self.registry,
        )
        self.events = Counter("meldwatch_events", "Events emitted, by type.", ["type"], registry=self.registry)
        self.streams = Gauge("meldwatch_streams", "Streams of events that are open.", registry=self.registry)
        self.pushes = Counter(
            "meldwatch_pushes", "Pushes to subscribers, by result.", ["result"], registry=self.registry
        )
        self.push_seconds = Histogram(
            "meldwatch_push_seconds",
            "How long pushes took.",
            buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20),
            registry=self.registry,
        )
        self.overtaken = Counter(
            "meldwatch_pushes_overtaken",
            "Pushes whose lease had ended: what came of them was thrown away.",
            registry=self.registry,
        )
        self.pruned = Counter(
            "meldwatch_rows_pruned",
            "Rows that retention has removed, by the setting that kept them; of bodies, those emptied.",
            ["kind"],
            registry=self.registry,
        )
