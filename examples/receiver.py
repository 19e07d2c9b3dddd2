"""Receive what meldwatch pushes: verify it, keep it once, answer 204. Python 3.9 or later, nothing to install.

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
LONGEST_BODY = 8 * 1024 * 1024


def is_genuine(headers: Mapping[str, str], body: bytes, now: float) -> bool:
    """Whether meldwatch signed exactly these bytes within the last minutes. Ask before anything is parsed."""
    id_, timestamp, signatures = (headers.get(f"webhook-{name}", "") for name in ("id", "timestamp", "signature"))
    if not id_ or not re.fullmatch("[0-9]{1,12}", timestamp) or abs(now - int(timestamp)) > TOLERANCE_SECONDS:
        return False
    digest = hmac.digest(KEY, f"{id_}.{timestamp}.".encode() + body, "sha256")
    expected = b"v1," + base64.b64encode(digest)
    # There are several while the secret is rotated, each made with another; compared in constant time.
    return any(hmac.compare_digest(expected, signature.encode()) for signature in signatures.split(" "))


def keep(event: dict) -> None:
    """Work on an event, once: its id and what the work writes are committed together, or not at all."""
    with closing(sqlite3.connect(DATABASE)) as database, database:
        database.execute("CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY)")
        if database.execute("INSERT OR IGNORE INTO seen VALUES (?)", [event["id"]]).rowcount:
            work(event, database)


def work(event: dict, database: sqlite3.Connection) -> None:
    """Put yours here, to be done within 15 seconds; if it takes longer, only note here what is to be done.

    A connection's events come in order, one at a time: the next is sent when this one is answered. Only what is sent
    anew after it was given up comes late; then its `sequence` is below the last one of its `subject`.
    """
    print(event["sequence"], event["type"], event["subject"], json.dumps(event["data"]["current"]), flush=True)


class Receiver(BaseHTTPRequestHandler):
    """Answers one push after the other on a connection."""

    protocol_version = "HTTP/1.1"  # connections are kept
    timeout = 30

    def do_POST(self) -> None:
        """Take a push, or refuse it. Where it is not answered, for whatever reason, it comes again."""
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,12}", length) or int(length) > LONGEST_BODY:
            self.close_connection = True
            return self.answer(413)
        body = self.rfile.read(int(length))
        if not is_genuine(self.headers, body, time.time()):
            return self.answer(401)
        keep(json.loads(body))
        return self.answer(204)

    def answer(self, status: int) -> None:
        """Answer without a body."""
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Say nothing of each request."""


if __name__ == "__main__":
    if not KEY:
        raise SystemExit("SECRET is not set: the subscription's, as it was shown when it was made (whsec_...).")
    ThreadingHTTPServer(("127.0.0.1", PORT), Receiver).serve_forever()
