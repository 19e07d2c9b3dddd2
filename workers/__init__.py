"""Verbs from the queue to the event.

    actors ("a connection may have changed")
      -> claim    a lease on its job; no row: somebody else has it
      -> read     Meld, through runtime/net/meld_client.py
      -> settle   one commit behind a fence, either
           apply      mirror, decide -> tell (observation, events), webhooks processed, follow (siblings raised)
           postpone   policy         -> back off, pause all, or give up visibly
      -> call     the workers of siblings, and of this connection where it was raised meanwhile

``refresh`` conducts: it alone opens transactions and knows the order. ``decide`` and ``policy`` are pure. ``adopt``
applies what a reconcile finds in Meld's list and the mirror has never seen.

Looking back, over what was stored:

    history   the rows of each connection, a few at a time
      -> fold     its observations, through mirror, decide and event as at first
      -> check    where its rows are not what the fold gives
      -> rebuild  the conductor: compares, and mends under the workers' locks

``recall`` folds up to a time; ``forget`` turns the oldest observations into a baseline, at which a fold begins.
``fold`` and ``check`` are pure.
"""
