"""Verbs from the queue to the event.

    actors ("a connection may have changed")
      -> claim    a lease on its job; no row: somebody else has it
      -> read     Meld, through runtime/meld.py
      -> settle   one commit behind a fence, either
           apply      decide -> mirror, observation, events, webhooks processed, siblings raised
           postpone   judge  -> back off, pause all, or give up visibly
      -> call     the workers of siblings, and of this connection where it was raised meanwhile

``refresh`` conducts: it alone opens transactions and knows the order. ``decide`` and ``policy`` are pure.
"""
