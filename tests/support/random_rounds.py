"""How much randomness a run of the tests buys: a little in ``make test``, a lot in ``make soak``.

``MELDWATCH_SOAK`` multiplies the random rounds. ``make soak`` runs the tests of the modules that use
``rounds``; ``conftest`` marks them ``random``.
"""

import os

FACTOR = int(os.environ.get("MELDWATCH_SOAK", "1"))


def rounds(count: int) -> int:
    """Return the number of random rounds: ``count`` in ``make test``, a multiple of it in ``make soak``."""
    return count * FACTOR
