import pytest

from schemas.push import Receipt
from tests.workers.pushlike import ScriptedConsumer
from workers.send import Send


class Handlers:
    """Handlers that keep what they are called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bytes]] = []

    def run(self, name: str, body: bytes) -> Receipt:
        """Take it."""
        self.calls.append((name, body))
        return Receipt(detail="called")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("python:mine.f", "mine.f"),
        ("python:", ""),
        ("https://python:8000/", None),
        ("pythonic:mine.f", None),
        ("ftp://x", None),
    ],
)
def test_each_goes_its_way(url: str, name: str | None) -> None:
    """A handler by its name, and whatever is no handler's to where its form is looked at."""
    push, run = ScriptedConsumer(), Handlers()

    receipt = Send(push=push, run=run).send(url, {"webhook-id": "e1"}, b"{}")

    assert run.calls == ([] if name is None else [(name, b"{}")])
    assert [(pushed.url, pushed.body) for pushed in push.pushes] == ([(url, b"{}")] if name is None else [])
    assert receipt == (Receipt(200) if name is None else Receipt(detail="called"))
