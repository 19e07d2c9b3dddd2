"""The HTTP service: receives Meld's webhooks, serves the API, and schedules work. Workers do the work.

    app               composes all routes into one Starlette application
    http              HTTP plumbing: routing, authentication, query, body, pagination, problem details, OpenAPI
    ingest            webhooks: endpoint, signature verification, inbox with group commit, notification of workers
    rejected          refused webhooks: rate limits, bounded store, verification again on request
    resources         the API's routes, one module per resource: connections, events, webhooks, subscriptions, ...
    feed              notification of readers that wait for events: in the process, and by PostgreSQL LISTEN
    subscriptions     create, change, back-fill and redrive push subscriptions
    reconcile         comparison of the mirror with Meld's list of connections; drift
    replay            replay of stored webhooks (reads them again) or events (sends them again)
    scheduler         periodic passes: due reads, due deliveries, stale connections
    monitoring        GET /metrics, /healthz and /readyz: gauges from the database, readiness checks
    key_rotation      encrypts stored bodies and secrets again with the newest key
    errors            errors that the API answers as 4xx, and too many streams

A webhook passes ``ingest.endpoint``, ``ingest.signature``, ``ingest.payload``, ``ingest.inbox`` (webhook and read
request in one commit, then 200) and ``ingest.worker_notifier``; if it is refused, ``rejected.queue`` stores it.
"""
