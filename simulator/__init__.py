"""A Meld that signs, retries and misbehaves on demand.

world (the truth: connections, their groups, Meld's rules)
  | an act changes it and returns what Meld would announce
mailbox (withheld or not) -> post (signed, sent, retried, with faults) -> your webhook URL
  |
meld (Meld's public face: reads answered with faults) <- your client
steer (the hidden hand: acts, faults, scripts, records) <- a test, a developer, curl
life (acts by itself, seeded)
"""
