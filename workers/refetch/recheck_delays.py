"""Delays of rechecks and confirming reads: how far Meld's API may lag behind its webhooks, and when to read again."""

RECHECK_SECONDS = (5.0, 30.0, 120.0, 600.0)
"""When connections that disagree are read again: Meld's API may lag behind webhooks, and one member behind another."""

RECHECK_RESET_SECONDS = 2 * sum(RECHECK_SECONDS)
"""A connection without a request for this long has all its rechecks again."""

MAX_API_LAG_SECONDS = 30.0
"""How long after a webhook Meld's API may still return the state before it. A read that begins sooner may need a
confirming read that does not."""

HINT_SECONDS = sum(RECHECK_SECONDS) + 180
"""How long reads are compared with a hint: as long as its rechecks take, with some room."""
