"""Subscriptions of event consumers: create, change, rotate, redrive, remove, and backfill."""
