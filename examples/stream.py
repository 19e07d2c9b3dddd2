"""Follow the feed as server-sent events. Python 3.9 or later, nothing to install.

TOKEN=... URL=http://127.0.0.1:8000 python stream.py
"""

import http.client
import json
import os
import pathlib
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

URL = os.environ.get("URL", "http://127.0.0.1:8000")
CURSOR = pathlib.Path("cursor")


def read_stream(after: int) -> Iterator[dict]:
    """Yield the events after a position as they arrive, until the stream ends."""
    request = urllib.request.Request(f"{URL}/api/events/stream")
    request.add_header("Authorization", f"Bearer {os.environ['TOKEN']}")
    request.add_header("Last-Event-ID", str(after))
    with urllib.request.urlopen(request, timeout=45) as answer:
        for line in answer:
            # A line without a line end is incomplete: the event comes again after the reconnect.
            if line.startswith(b"data: ") and line.endswith(b"\n"):
                yield json.loads(line[6:])


def save_cursor(position: int) -> None:
    """Store the last processed position, atomically: a crash leaves the old or the new file, never half of one."""
    new = CURSOR.with_suffix(".new")
    new.write_text(str(position))
    new.replace(CURSOR)


while True:
    try:
        for event in read_stream(int(CURSOR.read_text()) if CURSOR.exists() else 0):
            print(event["sequence"], event["type"], event["subject"], json.dumps(event["data"]["current"]), flush=True)
            save_cursor(event["position"])
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code < 500:
            sys.exit(f"{URL} refuses: {error.read().decode()}")
        print(f"trying again: {error!r}", file=sys.stderr)
    time.sleep(1)
