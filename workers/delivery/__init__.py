"""Delivery of events to subscriptions: lease, signing, push, result, backoff and concurrency limits."""
