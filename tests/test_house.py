"""The rules of the house that no linter knows."""

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("meldwatch", "service", "workers", "simulator", "runtime", "schemas", "migrations")
SHIPPED = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
FOLDERS = sorted(
    {path.parent for path in [*SHIPPED, *(ROOT / "bench").rglob("*.py"), *(ROOT / "tests/support").rglob("*.py")]}
)
TESTS = sorted((ROOT / "tests").rglob("*.py"))

MAX_MODULES = 15
LONGEST_FILE = 300
# What a process composes once, and hands on: never made while a module is imported.
COMPOSED = {"create_engine", "Database", "connect", "Settings", "load", "Meld", "Exchange", "Metrics", "Worker"}


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(), path))


def at(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


def called(node: ast.AST) -> str:
    """Return the last part of the name that a call calls."""
    function = node.func if isinstance(node, ast.Call) else node
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def test_every_test_says_what_it_holds() -> None:
    """Every test function has a docstring."""
    silent = [
        at(path, node)
        for path in TESTS
        for node in nodes(path)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]

    assert silent == []


def test_files_stay_short() -> None:
    """No shipped file is longer than one sitting."""
    long = [str(path.relative_to(ROOT)) for path in SHIPPED if len(path.read_text().splitlines()) > LONGEST_FILE]

    assert long == []


def modules_of(folder: Path) -> list[str]:
    return [path.stem for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]


def test_folders_can_be_scanned() -> None:
    """No folder of the shipped packages and the benchmarks has more modules than the eye takes in."""
    full = {str(folder.relative_to(ROOT)): len(modules_of(folder)) for folder in FOLDERS}

    assert {folder: count for folder, count in full.items() if count > MAX_MODULES} == {}


def test_no_name_is_another_with_an_ending() -> None:
    """Within a folder no two names, of modules or folders, differ by an ending alone: a reader could not tell which."""
    twins = []
    for folder in FOLDERS:
        stems = defaultdict(set)
        for name in [*modules_of(folder), *(path.name for path in folder.iterdir() if (path / "__init__.py").exists())]:
            stems[re.sub(r"(ing|er|ion|ed|s)+$", "", name)].add(name)
        twins += [f"{folder.relative_to(ROOT)}: {sorted(names)}" for names in stems.values() if len(names) > 1]

    assert twins == []


def test_a_class_name_means_one_thing() -> None:
    """No two classes of the shipped packages have one name."""
    classes = [
        node.name for path in SHIPPED for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)
    ]

    assert [name for name, count in Counter(classes).items() if count > 1] == []


def test_tests_mirror_the_modules() -> None:
    """Every test file in a package's folder is named after one of its modules, or holds the laws of them all."""
    orphans = [
        str(path.relative_to(ROOT))
        for path in TESTS
        if path.name.startswith("test_")
        and path.name not in {"test_laws.py", "test_guide.py"}  # laws of a package, and its guide in docs/
        and (folder := path.parent.relative_to(ROOT / "tests")).parts[:1]
        and folder.parts[0] in PACKAGES
        and not (ROOT / folder / path.name.removeprefix("test_")).exists()
    ]

    assert orphans == []


def test_nothing_is_composed_on_import() -> None:
    """No shipped module makes an engine, broker, client or settings on import, or changes a global later."""
    found = [
        at(path, node)
        for path in SHIPPED
        for node in [
            *(each for each in nodes(path) if isinstance(each, ast.Global)),
            *(
                each
                for statement in ast.parse(path.read_text()).body
                if isinstance(statement, ast.Assign | ast.AnnAssign | ast.Expr)
                for each in ast.walk(statement)
                if isinstance(each, ast.Call) and called(each) in COMPOSED
            ),
        ]
    ]

    assert found == []


def test_nothing_is_patched() -> None:
    """Tests use fakes that are handed in: neither mocks nor attributes replaced by their name."""
    patched = [
        at(path, node)
        for path in TESTS
        for node in nodes(path)
        if (isinstance(node, ast.Import) and any(name.name.startswith("unittest.mock") for name in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("unittest"))
        or (isinstance(node, ast.Call) and called(node) == "setattr" and is_dotted_text(node.args[0]))
    ]

    assert patched == []


def is_dotted_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value
