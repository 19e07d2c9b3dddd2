"""Events: created from changes, appended to the feed, fanned out to the outbox (deliveries of subscriptions)."""
