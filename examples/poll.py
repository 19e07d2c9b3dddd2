"""Follow the feed by long poll. Python 3.9 or later, nothing to install.

TOKEN=... URL=http://127.0.0.1:8000 python poll.py
"""

import http.client
import json
import os
import pathlib
import sys
import time
import urllib.error
import urllib.request

URL = os.environ.get("URL", "http://127.0.0.1:8000")
CURSOR = pathlib.Path("cursor")


def fetch_page(after: int) -> dict:
    """Return the events after a position, waiting for one if there is none yet. The page may be empty."""
    request = urllib.request.Request(f"{URL}/api/events?after={after}&limit=100&wait=30")
    request.add_header("Authorization", f"Bearer {os.environ['TOKEN']}")
    with urllib.request.urlopen(request, timeout=45) as answer:
        return json.load(answer)


def save_cursor(position: int) -> None:
    """Store the last processed position, atomically: a crash leaves the old or the new file, never half of one."""
    new = CURSOR.with_suffix(".new")
    new.write_text(str(position))
    new.replace(CURSOR)


while True:
    try:
        page = fetch_page(int(CURSOR.read_text()) if CURSOR.exists() else 0)
    except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code < 500:
            sys.exit(f"{URL} refuses: {error.read().decode()}")
        print(f"trying again: {error!r}", file=sys.stderr)
        time.sleep(2)
        continue
    for event in page["events"]:
        print(event["sequence"], event["type"], event["subject"], json.dumps(event["data"]["current"]), flush=True)
    save_cursor(page["next"])
