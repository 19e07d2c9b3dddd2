import re
import shlex
from pathlib import Path

import httpx2
import pytest
from starlette.testclient import TestClient

from simulator.control.actions import ACTIONS
from simulator.faults.read_script import ScriptedRead
from simulator.faults.settings import Faults

GUIDE = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text(encoding="utf-8")
CURL = re.compile(r"^curl .*$", re.MULTILINE)
PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


def run(command: str, client: TestClient) -> httpx2.Response:
    """Send the request that this curl command would send."""
    arguments = shlex.split(command.replace("$SIM", ""))[1:]
    data = arguments[arguments.index("-d") + 1] if "-d" in arguments else None
    method = arguments[arguments.index("-X") + 1] if "-X" in arguments else "POST" if data else "GET"
    (path,) = [argument for argument in arguments if argument.startswith("/")]
    return client.request(method, path, content=data)


def test_the_examples_work(client: TestClient) -> None:
    """Every curl command of the guide succeeds, in order."""
    commands = CURL.findall(GUIDE)

    failed = {command: answer.text for command in commands if (answer := run(command, client)).status_code >= 400}

    assert (len(commands) > 20, failed) == (True, {})


def test_the_python_example_works() -> None:
    """The guide's Python program runs, and its assertions hold."""
    (program,) = PYTHON.findall(GUIDE)

    exec(program, {})


@pytest.mark.parametrize("name", [*Faults.model_fields, *ScriptedRead.model_fields, *ACTIONS])
def test_every_name_is_in_the_guide(name: str) -> None:
    """Each fault, quirk, field of a step and action has its row."""
    assert f"| `{name}` |" in GUIDE


def test_every_default_is_as_the_guide_says() -> None:
    """All switches are off but the provider's credentials."""
    assert [name for name, value in Faults() if value is True] == ["credentials"]
