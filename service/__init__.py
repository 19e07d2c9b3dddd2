"""From the socket to the queue, in the order in which a webhook goes through it.

    receive   the raw body, within limits
    verify    is it Meld's? over exactly those bytes
    hint      what does it say, as far as it can be read
    store     the inbox: webhook and raised job in one commit, then the 200
    wake      a worker is called, off the request path
    clock     calls again for whatever call was lost

What is refused on the way goes past it, for an operator to look at:

    reject    off the request path, at a rate that strangers cannot raise
    evidence  the table of it, in which noise cannot push anything out
    reverify  tried again on demand; what passes is stored as if it arrived then

Beside it stands the API, which reads what was stored: ``app`` makes routes of operations (``connections``,
``timeline``, ``events``, ``webhooks``, ``rejections``, ``acts``, ``health``, ``gauges``), and for each request

    access    may the caller?
    query     what is asked for, within bounds
    threads   the rows are read, off the event loop, and written as JSON
    problems  or what was wrong, and what to do

The same operations are told as OpenAPI by ``openapi``, the events as JSON Schema and AsyncAPI by ``kit``.

``feed`` wakes those who wait for the next event, by long poll (``events``) or on a ``stream``; ``listen`` hears of
those that other processes commit. ``rotate`` seals anew what is stored, when the keys change.
"""
