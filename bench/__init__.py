"""Figures measured on the real thing: real processes, real databases, a real broker, real load.

    __main__ ("python -m bench")
      -> burst, race, ingest, latency, feed, worker   one module per figure: arranges, measures, judges
           stack     our processes over a database and a broker, beside a Meld
           postgres  a PostgreSQL that syncs; the other servers are those of the tests
           meld      a stand-in for Meld that costs next to nothing; floors  what our ingest is held against
           webhooks  signed beforehand; load  wrk, which fires them
      -> report      a table for people, JSON for machines

Nothing here is imported by what is shipped.
"""
