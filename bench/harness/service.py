"""Meldwatch's processes under measurement: embedded in one process, or distributed over several."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

from sqlalchemy import text

from bench.harness.signed_webhooks import ENCRYPTION_KEY, SECRET, webhook_url
from bench.harness.stack import ADMIN_TOKEN, MELDWATCH_COMMAND, START_TIMEOUT_SECONDS, BenchProcess, Stack, wait_until
from runtime.database import Database

Env = Mapping[str, str] | None


class Service:
    """Meldwatch's processes on one database and one broker, reading one Meld.

    Attributes:
        name: The deployment: a key of DESCRIPTIONS.
        port: The port of ``web`` or ``up``.
        children: The running processes by name.
    """

    def __init__(
        self,
        stack: Stack,
        *,
        name: str,
        port: int,
        meld: str,
        database: str,
        broker: str,
        timeout: float = 20,
        env: Env = None,
    ) -> None:
        self.name = name
        self.port = port
        self.children: dict[str, BenchProcess] = {}
        self.database = Database(database, pool_size=2)
        self._stack = stack
        self.env = {
            "MELDWATCH_DATABASE_URL": database,
            "MELDWATCH_BROKER_URL": broker,
            "MELDWATCH_MELD_API_URL": meld,
            "MELDWATCH_MELD_API_KEY": "bench",
            "MELDWATCH_MELD_TIMEOUT_SECONDS": str(timeout),
            "MELDWATCH_WEBHOOK_URLS": webhook_url(port),
            "MELDWATCH_WEBHOOK_SECRETS": SECRET,
            "MELDWATCH_ENCRYPTION_KEYS": ENCRYPTION_KEY,
            "MELDWATCH_ADMIN_TOKENS": ADMIN_TOKEN,
            "MELDWATCH_PUSH_ALLOWED_NETWORKS": "127.0.0.0/8",
            "MELDWATCH_PORT": str(port),
            "MELDWATCH_LOG_FORMAT": "json",
            **(env or {}),
        }

    @property
    def url(self) -> str:
        """The webhook URL."""
        return webhook_url(self.port)

    @contextlib.contextmanager
    def running(self, command: str, *options: str, name: str | None = None) -> Iterator[BenchProcess]:
        """Run a meldwatch command until the block ends."""
        port = self.port if command in {"up", "web"} else None
        with self._stack.child(
            name or command, *MELDWATCH_COMMAND, command, *options, port=port, env=self.env
        ) as child:
            self.children[name or command] = child
            yield child

    def pending_reads(self) -> int:
        """Return how many connections have a pending read request."""
        return self._count("read_request WHERE requested > completed")

    def is_idle_except_confirming(self) -> bool:
        """Return whether no read is pending, apart from later confirming reads."""
        return not self._count("read_request WHERE requested > completed AND trigger <> 'recheck'")

    def count_rows(self, table: str) -> int:
        """Return how many rows a table has."""
        return self._count(table)

    def wait_until_idle(self, seconds: float = 120) -> None:
        """Wait until no read is pending."""
        wait_until(lambda: self.pending_reads() == 0, seconds, "all reads")

    def _count(self, rows: str) -> int:
        with self.database.read() as session:
            return int(session.connection().execute(text(f"SELECT count(*) FROM {rows}")).scalar_one())


DeploymentFactory = Callable[..., contextlib.AbstractContextManager[Service]]


@contextlib.contextmanager
def embedded(
    stack: Stack, *, port: int, meld: str, threads: int = 8, timeout: float = 20, env: Env = None
) -> Iterator[Service]:
    """Run everything in one process, ``up``, on SQLite and the embedded broker."""
    own = {"name": "embedded", "database": stack.new_sqlite(), "broker": "memory://"}
    service = Service(stack, port=port, meld=meld, timeout=timeout, env=env, **own)
    with contextlib.closing(service.database), service.running("up", "--threads", str(threads)):
        yield service


@contextlib.contextmanager
def distributed(
    stack: Stack, *, port: int, meld: str, threads: int = 8, timeout: float = 20, workers: int = 1, env: Env = None
) -> Iterator[Service]:
    """Run ``web``, ``worker`` and ``clock`` as separate processes on PostgreSQL and Valkey."""
    with contextlib.ExitStack() as running:
        service = running.enter_context(web(stack, port=port, meld=meld, timeout=timeout, env=env))
        for number in range(workers):
            running.enter_context(service.running("worker", "--threads", str(threads), name=f"worker-{number}"))
        running.enter_context(service.running("clock"))
        wait_until(lambda: service.count_rows("lease"), START_TIMEOUT_SECONDS, "first run of the scheduler")
        yield service


@contextlib.contextmanager
def web(stack: Stack, *, port: int, meld: str, timeout: float = 20, env: Env = None) -> Iterator[Service]:
    """Run only ``web`` on PostgreSQL and Valkey; the caller may run further processes."""
    own = {"name": "distributed", "database": stack.new_postgres(), "broker": stack.new_broker()}
    service = Service(stack, port=port, meld=meld, timeout=timeout, env=env, **own)
    with contextlib.closing(service.database), service.running("web"):
        yield service


DEPLOYMENTS: tuple[DeploymentFactory, ...] = (embedded, distributed)
DESCRIPTIONS = {
    "embedded": "`up`: SQLite, memory broker, one process",
    "distributed": "`web` + `worker` + `clock`: PostgreSQL, Valkey",
}
