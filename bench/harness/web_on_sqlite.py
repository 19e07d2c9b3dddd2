"""The web part of ``up`` on SQLite, without workers and scheduler; ``meldwatch web`` does not support SQLite.

    python -m bench.harness.web_on_sqlite

It reads its settings from the environment, as ``meldwatch`` does.
"""

import os

from meldwatch.process import supervisor
from meldwatch.process.composition import ProcessComposition
from runtime.settings import load_settings


def main() -> None:
    """Serve until stopped."""
    settings = load_settings(os.environ)
    served = ProcessComposition(settings)
    served.add_web(host=settings.host, port=settings.port)
    supervisor.run(served.components)
    served.close()


if __name__ == "__main__":
    main()
