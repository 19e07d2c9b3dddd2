"""Scheduler: wakes workers for due reads and deliveries, and requests reads of stale connections."""
