"""Documentation tests: generated documents are up to date, and whatever a document names exists."""

import ast
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import click
import pytest
from prometheus_client import CollectorRegistry
from pydantic import BaseModel
from starlette.routing import Route

from docs import generate
from meldwatch.cli.root import cli
from runtime.metrics import Metrics
from runtime.settings import Settings
from schemas.connection_changes import EventType, Role
from schemas.events import DATA_MODELS, Event
from schemas.message_names import Trigger
from service.monitoring.database_gauges import GAUGE_DESCRIPTIONS
from service.monitoring.readiness_checks import DATABASE_CHECKS
from workers.refetch import follow_up_reads, recheck_delays

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
PACKAGES = ("meldwatch", "service", "workers", "runtime")
SHIPPED = (*PACKAGES, "simulator", "migrations", "schemas")
GUARANTEES = 12
MAX_DECISION_LINES = 60


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def prose(text: str) -> str:
    """Return a document without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def section(text: str, heading: str) -> str:
    """Return the text under a heading of the second level."""
    return re.split(r"^## ", text.split(f"\n## {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """Return the cells of all rows of all tables, without the header rows."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    heads = {number - 1 for number, line in enumerate(lines) if set(line) <= set("|-")}
    body = [line for number, line in enumerate(lines) if number not in heads and not set(line) <= set("|-")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body]


def codes(text: str) -> list[str]:
    """Return the contents of all code spans."""
    return re.findall(r"`([^`\n]+)`", text)


# Generated documents


@pytest.mark.parametrize("name", generate.DOCUMENTS)
def test_generated_documents_are_up_to_date(name: str) -> None:
    """``python -m docs.generate`` would change nothing."""
    assert read(f"docs/{name}") == generate.DOCUMENTS[name]()


# Links and names


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "")).strip().lower().replace(" ", "-")


def anchors_of(document: Path) -> list[str]:
    return [slug(heading) for heading in re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=short)
def test_links_lead_somewhere(document: Path) -> None:
    """Every link to a file of the repository leads to an existing file, and its anchor to an existing heading."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(document.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        if not target.is_file() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)

    assert broken == []


def test_every_document_is_reached_from_the_readme() -> None:
    """The README links each document, and the folder of the decisions."""
    named = read("README.md")
    missing = [short(path) for path in DOCUMENTS if path.parent == ROOT / "docs" and f"(docs/{path.name}" not in named]

    assert missing == []
    assert "(docs/decisions/" in named


def test_guarantees_name_existing_tests() -> None:
    """Each of the twelve guarantees names at least one test, and every named test exists."""
    text = read("docs/guarantees.md")
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", text)
    gone = [f"{file}::{name}" for file, name in named if name not in functions_of(ROOT / file)]
    bare = [
        number
        for number in range(1, GUARANTEES + 1)
        if not re.search(r"`tests/[\w/]+\.py::test_\w+`", guarantee(text, number))
    ]

    assert gone == []
    assert bare == []


def guarantee(text: str, number: int) -> str:
    match = re.search(rf"^## {number}\. .*?(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert match is not None, f"guarantee {number} is not there"
    return match[0]


def functions_of(path: Path) -> set[str]:
    """Return the names of the functions of a file, without importing it."""
    if not path.is_file():
        return set()
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


# Events


def examples() -> list[dict[str, Any]]:
    return [json.loads(block) for block in blocks(read("docs/events.md"), "json")]


def test_every_event_type_has_its_section_and_an_example() -> None:
    """Exactly the emitted types are described."""
    types = set(get_args(EventType))
    headings = re.findall(r"^### `(.*)`$", read("docs/events.md"), re.MULTILINE)

    assert types == set(headings)
    assert types == {example["type"] for example in examples()}


@pytest.mark.parametrize("example", examples(), ids=lambda example: example["type"])
def test_examples_of_events_are_valid(example: dict[str, Any]) -> None:
    """The examples match the models exactly, and repeated values are equal."""
    event = Event.model_validate(example)
    data = DATA_MODELS[event.type].model_validate(event.data)

    assert example.keys() == Event.model_fields.keys()
    assert example["data"].keys() == DATA_MODELS[event.type].model_fields.keys()
    assert event.dataschema == f"urn:meldwatch:schema:{event.type}:1"
    assert event.source == f"urn:meld:account:{data.connection.account_id}"
    assert (event.subject, int(event.sequence)) == (data.connection.id, data.connection.sequence)


def test_fields_roles_and_triggers_of_events_are_described() -> None:
    """The document contains each field of the envelope and of each type, each role and each trigger."""
    text = read("docs/events.md")
    known = set(codes(prose(text)))
    words = {*Event.model_fields, *get_args(Role), *get_args(Trigger)}
    words |= {
        name for shape in DATA_MODELS.values() for name in shape.model_fields if name not in {"connection", "cause"}
    }

    assert set() == words - known


@pytest.mark.parametrize("name", ["poll.py", "stream.py", "receiver.py", "receiver.mjs"])
def test_documented_consumers_equal_the_example_files(name: str) -> None:
    """The code in the document is exactly the file in ``examples/`` that other tests run."""
    language = "python" if name.endswith(".py") else "js"

    assert read(f"examples/{name}") in blocks(read("docs/events.md"), language)


def test_code_in_the_documents_compiles() -> None:
    """All Python code in the documents is valid Python."""
    for document in DOCUMENTS:
        for block in blocks(document.read_text(encoding="utf-8"), "python"):
            compile(block, short(document), "exec")


# HTTP


def test_every_route_is_in_the_reference() -> None:
    """The table of routes has exactly the routes that the application answers."""
    known = [route for route in generate.make_app().routes if isinstance(route, Route)]
    answered = {f"{method} {route.path}" for route in known for method in route.methods or () if method != "HEAD"}

    assert answered == {cells[0].split("`")[1] for cells in rows(read("docs/api.md")) if "[`" in cells[0]}


# Commands


def command_lines(document: Path) -> Iterator[list[str]]:
    """Yield our commands in a document's shell blocks, as lists of words, without the commands around them."""
    for block in blocks(document.read_text(encoding="utf-8"), "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = words_of(line)
            starts = [number for number, word in enumerate(words) if is_ours(word)]
            for start in starts:
                end = next((n for n in range(start, len(words)) if words[n] in {"|", "||", "&&", ";", "&"}), None)
                yield words[start:end]


def words_of(line: str) -> list[str]:
    """Split a line as a shell does; a variable becomes a number."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    return ["1" if word.startswith("$") else word for word in lexer]


def is_ours(word: str) -> bool:
    return word in {"make", "meldwatch", ".venv/bin/meldwatch"}


def problem_of(words: list[str], *, is_whole: bool) -> str | None:
    """Return what is wrong with one of our commands; arguments may be missing unless ``is_whole``."""
    name, *arguments = words
    if name == "make":
        targets = re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE)
        return next((f"make has no {word}" for word in arguments if "=" not in word and word not in targets), None)
    command: click.Command = cli
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        word, *arguments = arguments
        inner = command.get_command(click.Context(command), word)
        if inner is None:
            return f"{command.name} has no {word}"
        command = inner
    if isinstance(command, click.Group) or arguments == ["--help"]:
        return None
    try:
        command.make_context(command.name, arguments)
    except click.MissingParameter as error:
        return error.format_message() if is_whole else None
    except click.UsageError as error:
        return error.format_message()
    return None


@pytest.mark.parametrize("document", DOCUMENTS, ids=short)
def test_commands_exist(document: Path) -> None:
    """Every command in a shell block is valid, and every command named in the text exists."""
    lines = list(command_lines(document))
    named = [words_of(code) for code in codes(prose(document.read_text(encoding="utf-8"))) if is_ours(code.split()[0])]
    problems = [(line, problem_of(line, is_whole=True)) for line in lines]
    problems += [(words, problem_of(words, is_whole=False)) for words in named]

    assert [(" ".join(words), problem) for words, problem in problems if problem] == []


def test_the_procfile_runs_what_exists() -> None:
    """The Procfile has the processes that the documents name, with valid commands."""
    processes = dict(line.split(": ", 1) for line in read("Procfile").splitlines())
    problems = [problem_of(shlex.split(line), is_whole=True) for line in processes.values()]

    assert set(processes) == {"release", "web", "worker", "clock"}
    assert [None] * len(processes) == problems


def test_settings_that_are_named_exist() -> None:
    """Documents and the example settings file name only settings that exist."""
    known = {f"MELDWATCH_{name.upper()}{form}" for name in Settings.model_fields for form in ("", "_FILE")} | {
        "MELDWATCH_"
    }
    texts = [path.read_text(encoding="utf-8") for path in DOCUMENTS] + [read(".env.example")]
    named = {name for text in texts for name in re.findall(r"MELDWATCH_[A-Z_]*", text)}

    assert set() == named - known


# Operations and architecture


def metric_names() -> set[str]:
    """Return the name of every metric, as Prometheus sees it."""
    registry: CollectorRegistry = Metrics().registry
    counted = {family.name + ("_total" if family.type == "counter" else "") for family in registry.collect()}
    return counted | set(GAUGE_DESCRIPTIONS)


def test_the_list_of_metrics_is_complete() -> None:
    """The table has exactly the exported metrics, and no document names another."""
    table = {cells[0].strip("`") for cells in rows(section(read("docs/operations.md"), "Metrics"))}
    named = {
        name
        for path in DOCUMENTS
        for name in re.findall(r"`(meldwatch_[a-z_]+)", prose(path.read_text(encoding="utf-8")))
    }

    assert metric_names() == table
    assert set() == named - table


def test_the_parts_of_readiness_are_described() -> None:
    """The table has exactly the readiness checks."""
    table = {cells[0].strip("`") for cells in rows(section(read("docs/operations.md"), "Health"))}

    assert {*DATABASE_CHECKS, "broker"} == table


def test_the_list_of_log_events_is_complete() -> None:
    """The table has exactly the log events of our code."""
    table = {code for cells in rows(section(read("docs/operations.md"), "Logs")) for code in codes(cells[0])}

    assert logged() == table


def logged() -> set[str]:
    """Return the event of every call of a logger."""
    calls = (
        node
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "log"
    )
    return {
        part.value
        for call in calls
        for part in ast.walk(call.args[0])
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    }


@pytest.mark.parametrize("cells", rows(section(read("docs/architecture.md"), "Bounds")), ids=lambda cells: cells[2])
def test_bounds_are_as_written(cells: list[str]) -> None:
    """The values in the table are those of the code."""
    _what, written, where = cells
    module, _, name = where.strip("`").rpartition(".")
    bound = getattr(importlib.import_module(module), name)
    values = [float(part) for part in (bound if isinstance(bound, tuple) else (seconds(bound),))]

    assert values == [
        float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*\d(?:\.\d+)?|\d(?:\.\d+)?", written)
    ]


def test_the_bound_on_reads_in_a_group_is_as_written() -> None:
    """The examples below the table of bounds follow from the constants of the code."""
    text = " ".join(section(read("docs/architecture.md"), "Bounds").split())
    written = re.findall(r"([\d,]+) (?:reads in a group )?of (\d)", text)
    reads = 2 + len(recheck_delays.RECHECK_SECONDS)

    assert [(int(most.replace(",", "")), int(size)) for most, size in written] == [
        (reads * sum((reads * (size - 1)) ** depth for depth in range(follow_up_reads.MAX_DEPTH + 1)), size)
        for size in (2, 3, 5)
    ]


def seconds(bound: float | timedelta) -> float:
    return bound.total_seconds() if isinstance(bound, timedelta) else bound


def test_every_table_of_the_database_is_described() -> None:
    """The table has exactly the tables of the database."""
    tables = importlib.import_module("schemas.tables").METADATA.tables
    described = {cells[0].strip("`") for cells in rows(section(read("docs/architecture.md"), "Tables"))}

    assert set(tables) == described


def test_the_map_lists_every_package() -> None:
    """Each package and sub-package that exists has one line in the map, and no other has."""
    packages = {
        str(path.parent.relative_to(ROOT)) for package in SHIPPED for path in (ROOT / package).rglob("__init__.py")
    }
    listed = [cells[0].strip("`") for cells in rows(section(read("docs/architecture.md"), "Map"))]

    assert sorted(packages) == sorted(listed)


def test_files_that_are_named_exist() -> None:
    """Every path in the text of a document exists."""
    named = {
        (short(document), code)
        for document in DOCUMENTS
        for code in codes(prose(document.read_text(encoding="utf-8")))
        if re.fullmatch(
            r"(?:docs|meldwatch|service|workers|simulator|migrations|runtime|schemas|tests|bench|examples)/[\w/.-]*",
            code,
        )
    }

    assert sorted(f"{document}: {code}" for document, code in named if not (ROOT / code).exists()) == []


@pytest.mark.parametrize("decision", sorted((ROOT / "docs" / "decisions").glob("*.md")), ids=short)
def test_decisions_have_one_form(decision: Path) -> None:
    """A decision record is one page: context, decision, consequences; its number is that of the file."""
    text = decision.read_text(encoding="utf-8")

    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
    assert text.startswith(f"# {decision.name[:4]} ")
    assert len(text.splitlines()) <= MAX_DECISION_LINES


def test_models_of_events_have_docstrings() -> None:
    """Every model of an event has a docstring, which OpenAPI shows."""
    silent = [
        shape.__name__
        for shape in (Event, *DATA_MODELS.values())
        if not shape.__doc__ or not issubclass(shape, BaseModel)
    ]

    assert silent == []
