"""Rejected webhooks: a bounded queue and table of refused requests, and their later verification."""
