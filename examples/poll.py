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


def page(after: int) -> dict:
    """Wait for events behind a position; where there are none in time, the page is empty."""
    request = urllib.request.Request(f"{URL}/api/events?after={after}&limit=100&wait=30")
    request.add_header("Authorization", f"Bearer {os.environ['TOKEN']}")
    with urllib.request.urlopen(request, timeout=45) as answer:
        return json.load(answer)


def keep(position: int) -> None:
    """Note how far everything is done; whole, also where the program dies meanwhile."""
    new = CURSOR.with_suffix(".new")
    new.write_text(str(position))
    new.replace(CURSOR)


while True:
    try:
        got = page(int(CURSOR.read_text()) if CURSOR.exists() else 0)
    except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
        if isinstance(error, urllib.error.HTTPError) and error.code < 500:
            sys.exit(f"{URL} refuses: {error.read().decode()}")
        print(f"trying again: {error!r}", file=sys.stderr)
        time.sleep(2)
        continue
    for event in got["events"]:
        print(event["sequence"], event["type"], event["subject"], json.dumps(event["data"]["current"]), flush=True)
    keep(got["next"])
