"""Replay: read the connections of stored webhooks again, or push stored events to a subscription again."""
