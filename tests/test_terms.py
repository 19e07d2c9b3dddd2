"""A search for a standard term leads to the module that implements it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("meldwatch", "service", "workers", "runtime", "schemas", "migrations")
MANY_HITS = 10

TERMS = {
    "as of": "workers/history/as_of.py",
    "audit": "runtime/audit.py",
    "backoff": "workers/delivery/backoff.py",
    "bearer token": "service/http/auth.py",
    "bounded queue": "service/ingest/inbox.py",
    "circuit breaker": "runtime/queues/circuit_breaker.py",
    "composition": "meldwatch/process/composition.py",
    "connection pool": "runtime/database.py",
    "cursor": "service/http/pagination.py",
    "dead jobs": "service/resources/failures.py",
    "dead letter": "workers/delivery/result.py",
    "deadline": "runtime/net/deadline_client.py",
    "dependency injection": "meldwatch/process/composition.py",
    "drain": "meldwatch/process/worker_threads.py",
    "drift": "service/reconcile/drift.py",
    "dry run": "workers/refetch/preview.py",
    "duplicate group": "service/resources/duplicates.py",
    "encryption at rest": "runtime/security/encryption.py",
    "exit code": "meldwatch/cli/exit_codes.py",
    "fan-out": "workers/events/fan_out.py",
    "fencing token": "workers/refetch/lease.py",
    "graceful shutdown": "meldwatch/process/supervisor.py",
    "group commit": "service/ingest/inbox.py",
    "heartbeat": "service/resources/event_stream.py",
    "HMAC": "service/ingest/signature.py",
    "idempotency": "service/ingest/webhook_insert.py",
    "jitter": "workers/delivery/backoff.py",
    "key rotation": "service/key_rotation.py",
    "lease": "workers/refetch/lease.py",
    "LISTEN": "service/feed/pg_listener.py",
    "long poll": "service/feed/notifier.py",
    "materialized": "workers/history/projection.py",
    "migration": "migrations/run.py",
    "OpenAPI": "service/http/openapi.py",
    "outbox": "workers/events/fan_out.py",
    "pagination": "service/http/pagination.py",
    "point-in-time": "workers/history/as_of.py",
    "problem details": "service/http/problem_details.py",
    "projection": "workers/history/projection.py",
    "rate limit": "service/rejected/queue.py",
    "reconcile": "service/reconcile/run.py",
    "redaction": "runtime/security/redaction.py",
    "redrive": "service/subscriptions/redrive.py",
    "replay": "service/replay/runner.py",
    "retention": "workers/retention/prune.py",
    "retry policy": "workers/refetch/retry_policy.py",
    "Retry-After": "workers/delivery/backoff.py",
    "scheduler": "service/scheduler/loop.py",
    "server-sent events": "service/resources/event_stream.py",
    "signature verification": "service/ingest/signature.py",
    "SSRF": "runtime/net/ssrf_guard.py",
    "thread pool": "service/http/threadpool.py",
    "timeout": "runtime/net/deadline_client.py",
    "token bucket": "service/rejected/queue.py",
    "tombstone": "workers/refetch/mirror_row.py",
    "upsert": "runtime/queues/reads.py",
}
"""Search terms of the field, and the module that each should lead to."""


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """Return the text of each shipped module, in lower case, by path."""
    return {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8").lower()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }


@pytest.mark.parametrize(("term", "module"), TERMS.items())
def test_a_search_for_a_term_leads_to_its_module(term: str, module: str, texts: dict[str, str]) -> None:
    """The module's docstring has the term, as one searches line by line; in its first line if many modules have it."""
    hits = [path for path, text in texts.items() if term.lower() in text]
    lines = (ast.get_docstring(ast.parse(texts[module])) or "").splitlines()
    searched = lines if len(hits) <= MANY_HITS else lines[:1]

    assert any(term.lower() in line for line in searched), f"{len(hits)} modules have {term!r}; {module} should say it"
