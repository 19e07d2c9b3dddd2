import re
import shlex
from pathlib import Path

import httpx2
import pytest
from starlette.testclient import TestClient

from simulator.control.actions import ACTS
from simulator.faults.read_script import ScriptedRead
from simulator.faults.settings import Faults

GUIDE = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text(encoding="utf-8")
CURL = re.compile(r"^curl .*$", re.MULTILINE)
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


def run(command: str, client: TestClient) -> httpx2.Response:
    """What curl would have done."""
    words = shlex.split(command.replace("$SIM", ""))[1:]
    data = words[words.index("-d") + 1] if "-d" in words else None
    method = words[words.index("-X") + 1] if "-X" in words else "POST" if data else "GET"
    (path,) = [word for word in words if word.startswith("/")]
    return client.request(method, path, content=data)


def test_the_examples_work(client: TestClient) -> None:
    """Every command of the guide, one after the other, is answered well."""
    commands = CURL.findall(GUIDE)

    failed = {command: answer.text for command in commands if (answer := run(command, client)).status_code >= 400}

    assert (len(commands) > 20, failed) == (True, {})


def test_the_python_example_works() -> None:
    """The guide's program runs, and its assertions hold."""
    (program,) = PYTHON.findall(GUIDE)

    exec(program, {})


@pytest.mark.parametrize("name", [*Faults.model_fields, *ScriptedRead.model_fields, *ACTS])
def test_every_name_is_in_the_guide(name: str) -> None:
    """Each fault, habit, field of a step and act has its row."""
    assert f"| `{name}` |" in GUIDE


def test_every_default_is_as_the_guide_says() -> None:
    """All switches are off but the provider's credentials."""
    assert [name for name, value in Faults() if value is True] == ["credentials"]
