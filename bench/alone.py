"""The web part of ``up`` without workers and clock, on SQLite, where ``meldwatch web`` will not run.

    python -m bench.alone

It takes its settings from the environment as ``meldwatch`` does.
"""

import os

from meldwatch import process
from meldwatch.compose import Process
from runtime.settings import load


def main() -> None:
    """Serve until told to stop."""
    settings = load(os.environ)
    served = Process(settings)
    served.add_web(host=settings.host, port=settings.port)
    process.run(served.parts)
    served.close()


if __name__ == "__main__":
    main()
