"""Delivery of events from the outbox to subscriptions: lease, signing, push, result, backoff, concurrency limits."""
