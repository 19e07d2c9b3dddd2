"""Replay: stored webhooks have their connections read again, stored events are delivered again."""
