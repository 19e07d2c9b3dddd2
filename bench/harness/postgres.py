"""A durable PostgreSQL as in production: fsync is on, unlike in the tests."""

import signal

import psycopg

from tests.support.processes.servers import Run, Server, _directory, _initdb, _postgres_binaries, free_ports

NAME = "durable"


def start(run: Run) -> Server:
    """Start a PostgreSQL with its default settings: ``fsync``, ``full_page_writes`` and autovacuum are on."""
    directory = _directory(run, NAME)
    binaries, user = _postgres_binaries(run)
    _initdb(directory, binaries, user)
    (port,) = free_ports(1)
    options = ["listen_addresses=127.0.0.1", "unix_socket_directories=", f"port={port}"]
    command = [binaries / "postgres", "-D", directory / "data"]
    command += [part for option in options for part in ("-c", option)]
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    server = Server(run, directory, url, command, end=signal.SIGQUIT, user=user)
    if not server.wait_for(lambda: _answers(url)):
        raise AssertionError((directory / "output").read_text(errors="replace")[-4000:])
    return server


def describe_settings(url: str) -> str:
    """Return the version and the settings that durability depends on, from the server."""
    names = ("server_version", "fsync", "synchronous_commit", "full_page_writes")
    with psycopg.connect(url) as connection:
        values = [str(connection.execute(f"SHOW {name}").fetchone()[0]) for name in names]  # type: ignore[index]
    return "PostgreSQL " + ", ".join(
        [values[0], *(f"{name} {value}" for name, value in zip(names[1:], values[1:], strict=True))]
    )


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True
