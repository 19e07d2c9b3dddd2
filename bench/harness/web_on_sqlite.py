"""The web part of ``up`` without workers and clock, on SQLite, where ``meldwatch web`` will not run.

    python -m bench.harness.web_on_sqlite

It takes its settings from the environment as ``meldwatch`` does.
"""

import os

from meldwatch.process import supervisor
from meldwatch.process.composition import ProcessComposition
from runtime.settings import load


def main() -> None:
    """Serve until told to stop."""
    settings = load(os.environ)
    served = ProcessComposition(settings)
    served.add_web(host=settings.host, port=settings.port)
    supervisor.run(served.parts)
    served.close()


if __name__ == "__main__":
    main()
