"""Meld's shapes: a connection, a webhook, and the outcome of a read."""
