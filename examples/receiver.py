"""Receive pushes of meldwatch: verify the signature, process each event once, answer 204. Python 3.9 or later.

SECRET=whsec_... PORT=8080 python receiver.py
"""

import base64
import hmac
import json
import os
import re
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = base64.b64decode(os.environ.get("SECRET", "").removeprefix("whsec_"))
PORT = int(os.environ.get("PORT", "8080"))
DATABASE = os.environ.get("DATABASE", "events.db")
TOLERANCE_SECONDS = 300
MAX_BODY_BYTES = 8 * 1024 * 1024


def is_genuine(headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """Return whether meldwatch signed exactly these bytes within the last minutes. Check this before parsing them."""
    id_, timestamp, signatures = (headers.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature"))
    if not id_ or not re.fullmatch("[0-9]{1,12}", timestamp) or abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        return False
    digest = hmac.digest(KEY, f"{id_}.{timestamp}.".encode() + body, "sha256")
    expected = b"v1," + base64.b64encode(digest)
    # During a rotation there are several signatures, one per secret. The comparison takes constant time.
    return any(hmac.compare_digest(expected, signature.encode()) for signature in signatures.split(" "))


def process_once(event: dict) -> None:
    """Process an event once: its id and the results are committed together, or not at all (idempotency)."""
    with closing(sqlite3.connect(DATABASE)) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY)")
        if database.execute("INSERT OR IGNORE INTO seen VALUES (?)", [event["id"]]).rowcount:
            work(event, database)


def work(event: dict, database: sqlite3.Connection) -> None:
    """Put your code here. It has 15 seconds; if it needs longer, only store the task here.

    A connection's events arrive in order, one at a time: the next is sent after this one is answered. Only a redriven
    or replayed event arrives late; then its `sequence` is below the last one of its `subject`.
    """
    print(event["sequence"], event["type"], event["subject"], json.dumps(event["data"]["current"]), flush=True)


class Receiver(BaseHTTPRequestHandler):
    """Answers the pushes on one connection, one after the other."""

    protocol_version = "HTTP/1.1"  # keep connections open
    timeout = 30

    def do_POST(self) -> None:
        """Accept or refuse a push. If there is no answer for any reason, meldwatch retries it."""
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,12}", length) or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            return self.answer(413)
        body = self.rfile.read(int(length))
        if not is_genuine(self.headers, body, time.time()):
            return self.answer(401)
        process_once(json.loads(body))
        return self.answer(204)

    def answer(self, status: int) -> None:
        """Answer without a body."""
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Log nothing per request."""


if __name__ == "__main__":
    if not KEY:
        raise SystemExit("SECRET is not set. Use the secret shown when the subscription was created (whsec_...).")
    ThreadingHTTPServer(("127.0.0.1", PORT), Receiver).serve_forever()
