"""The distribution: a wheel of a clean copy has everything that the program needs."""

import signal
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


def tracked_files() -> list[str]:
    """Return the files that belong to the project, also those that are not committed yet."""
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    return [name for name in names if (ROOT / name).is_file()]


def packages() -> tuple[str, ...]:
    """Return the folders that pyproject.toml puts into the distribution."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return tuple(pattern.rstrip("*") + "/" for pattern in document["tool"]["setuptools"]["packages"]["find"]["include"])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy of the project's files."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in tracked_files():
        copy = folder / "source" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((ROOT / name).read_bytes())
    build = ["wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder, folder / "source"]
    subprocess.run([*PIP, *build], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture
def program(wheel: Path, tmp_path: Path) -> Path:
    """The installed command, in an environment that has the wheel, and the dependencies of the tests' environment."""
    # A % in the path is special for Alembic's configuration.
    environment = tmp_path / "100% environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    subprocess.run([*PIP, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True)
    (site_packages,) = environment.glob("lib/python*/site-packages")
    # The .pth files in that folder are not read, so the editable installation of the repository is not visible.
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return environment / "bin" / "meldwatch"


def test_a_wheel_has_every_file_of_the_packages(wheel: Path) -> None:
    """Modules and data files: what is tracked in a package is in the wheel, and nothing else is."""
    ours = {name for name in tracked_files() if name.startswith(packages())}
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}

    assert packed == ours


def test_the_demo_runs_from_a_wheel(program: Path, tmp_path: Path) -> None:
    """Installed without the repository, ``up --demo`` migrates, shows events, and ends with success on SIGTERM."""
    location = [program.with_name("python"), "-c", "import meldwatch, migrations; print(meldwatch.__file__)"]
    imported = subprocess.run(location, cwd=tmp_path, env={}, check=True, capture_output=True, text=True).stdout
    command = [program, "up", "--demo", "--port", "0"]
    with subprocess.Popen(command, cwd=tmp_path, env={}, stdout=subprocess.PIPE, text=True) as demo:
        try:
            assert demo.stdout is not None
            seen = next((line for line in demo.stdout if "connection.status_changed" in line), "")
            demo.send_signal(signal.SIGTERM)
            code = demo.wait(10)
        finally:
            demo.kill()

    assert imported.startswith(str(program.parent.parent))
    assert "(new) ->" in seen
    assert code == 0
