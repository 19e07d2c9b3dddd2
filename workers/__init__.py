"""Workers: from the queue to the event, and from the event to the subscriber.

A message of the broker names a connection or a subscription (``actors.py``). It is only a hint: the work is in the
database, so a lost or repeated message does no harm.

``refetch/``: one read of a connection, as a pipeline::

    refetch.py            opens every transaction and knows the order
      -> lease.py           acquire the lease of the connection, with a fencing token; none: another worker has it
      -> runtime.net        read Meld
      -> commit.py          one transaction behind the fencing token:
           mirror_row.py        the new row, or a tombstone
           recent_webhooks.py   the newest status hint; whether the read may be too early
           decision.py          changes, siblings that disagree (pure)
           follow_up_reads.py   request reads of siblings, rechecks, the confirming read
           observe.py           insert the observation, append the events
      or  reschedule.py     after a failure: retry_policy.py decides backoff, circuit breaker or giving up (pure)
      -> notify             the workers of follow-up reads, the dispatchers of deliveries, the feed

    bulk_import.py        the same decision for a page of Meld's list (reconcile)
    preview.py            the same decision without writing (dry run of a replay)

``events/``: event_factory.py creates events from changes, append.py allocates positions, fan_out.py writes the outbox.

``delivery/``: dispatcher.py leases a delivery queue, signs, sends and records the result.

``history/``: projection.py replays the observations of a connection through the same decision; rebuild.py compares
the result with the live rows and repairs them; as_of.py stops at a point in time.

``retention/``: prune.py deletes expired rows in small commits and keeps baselines of what it deletes.
"""
