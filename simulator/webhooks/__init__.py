"""Webhooks that the simulator sends: outbox, signature, delivery and retries."""
