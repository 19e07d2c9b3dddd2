"""A simulated Meld for tests, demos and benchmarks: it signs and retries webhooks, and injects faults on request.

- `world`: the state of the simulated account: connections, duplicate groups, and Meld's rules for their transitions.
  An action changes the state at once and returns the webhook events that Meld would send.
- `webhooks`: the outbox that holds webhooks back or hands them to delivery: signature, HTTP request, retries, faults.
- `api`: Meld's public API: single reads, the paginated list, refresh, delete, connect.
- `control`: the control API under `/sim` for tests, developers and curl: actions, faults, scripted reads, records.
- `activity`: the initial population, and actions at random times.
- `faults`: fault injection: probabilities, and scripts for the next reads.
"""
