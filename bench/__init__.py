"""Benchmarks: figures measured on real processes, databases and brokers under real load.

- ``__main__``: the command line, ``python -m bench``
- ``figures``: one module for each figure; it arranges, measures and compares the result with its target
- ``harness``: PostgreSQL, Valkey, meldwatch's processes, the simulated and the quick Meld, load generators, consumers
- ``report``: results as a Markdown table and as JSON

No shipped package imports this one.
"""
