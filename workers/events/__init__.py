"""Events: made from changes, appended to the feed, fanned out to the deliveries of subscriptions."""
