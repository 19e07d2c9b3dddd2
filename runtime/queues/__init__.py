"""Queues on database rows: read requests, delivery queues, leases of tasks, the circuit breaker before Meld."""
