"""Models of Meld's API: connection, webhook, and the outcome of a read."""
