"""The files that install, check and run this project agree with each other."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNTIME = [Requirement(line) for line in PYPROJECT["project"]["dependencies"]]
DEV = [Requirement(line) for line in PYPROJECT["dependency-groups"]["dev"]]
LOCKS = ["requirements.txt", "requirements-dev.txt"]
MAKE = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL"}  # what a make that runs these tests tells its children
TARGETS = {"help", "run", "run-cluster", "test", "ci", "check", "bench", "lock", "format", "clean"}


class Pin(NamedTuple):
    version: Version
    hashes: list[str]


def _pins(lock: str) -> dict[str, Pin]:
    """Every pin of a lock file, by normalised name. A line that is neither a pin nor a comment fails."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / lock).read_text(), flags=re.MULTILINE)
    pins: dict[str, Pin] = {}
    for line in text.replace("\\\n", " ").splitlines():
        pin, *hashes = line.split()
        name, version = pin.split("==")
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", item) for item in hashes), line
        pins[canonicalize_name(name)] = Pin(Version(version), hashes)
    return pins


@pytest.mark.parametrize(("lock", "wanted"), [(LOCKS[0], RUNTIME), (LOCKS[1], RUNTIME + DEV)])
def test_every_direct_dependency_is_locked_within_its_range(lock: str, wanted: list[Requirement]) -> None:
    pins = _pins(lock)
    for requirement in wanted:
        pin = pins.get(canonicalize_name(requirement.name))
        assert pin is not None, f"run `make lock`: {requirement} is missing"
        assert pin.version in requirement.specifier, f"run `make lock`: {requirement} has {pin.version}"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_a_hash(lock: str) -> None:
    assert [name for name, pin in _pins(lock).items() if not pin.hashes] == []


def test_tests_run_on_the_versions_that_production_runs_on() -> None:
    assert _pins("requirements.txt").items() <= _pins("requirements-dev.txt").items()


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_index_and_no_path(lock: str) -> None:
    # A URL and a path have a slash, or a backslash before something else than the end of the line.
    text = (ROOT / lock).read_text()
    assert re.findall(r".*(?:/|\\.|@ |--(?!hash=)).*", text) == []


def test_the_makefile_has_every_target_and_help_lists_it() -> None:
    targets = set(re.findall(r"^([a-z-]+):.* ## \S", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert targets >= TARGETS


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_make_understands_the_target(target: str) -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    env = {name: value for name, value in os.environ.items() if name not in MAKE}
    command = ["make", "--dry-run", target]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_ci_is_make_ci() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    text = script.read_text()
    assert "set -euo pipefail" in text
    assert re.search(r"^(?!\s*#).*\bmake ci\b", text, flags=re.MULTILINE)


def test_the_decision_on_dependencies_names_exactly_the_direct_ones() -> None:
    text = (ROOT / "docs" / "decisions" / "0001-dependencies.md").read_text()
    assert sorted(re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE)) == sorted(
        requirement.name for requirement in RUNTIME + DEV
    )


def test_the_strict_plugin_is_loaded(request: pytest.FixtureRequest) -> None:
    loaded = request.config.pluginmanager.has_plugin("tests.strict")
    assert loaded, 'tests/conftest.py needs: pytest_plugins = ["tests.strict"]'


MARKED = "import pytest\n\n@pytest.mark.skip(reason='no such server')\ndef test_one(): pass\n"
WHOLE_MODULE = "import pytest\n\npytest.skip('no such server', allow_module_level=True)\n"


@pytest.mark.parametrize("source", [MARKED, WHOLE_MODULE])
@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("strict", ["0", "1"])
def test_a_skip_fails_only_when_strict(tmp_path: Path, source: str, workers: str, strict: str) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "test_skipped.py").write_text(source)
    (tmp_path / "test_passing.py").write_text("def test_one(): pass\n")
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    env |= {"CI_STRICT": strict, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # the others only make it start late
    options = ["-p", "tests.strict", "-p", "xdist.plugin", "-n", workers]
    command = [sys.executable, "-m", "pytest", *options, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == int(strict), done.stdout + done.stderr
    assert ("no such server" in done.stdout) == (strict == "1")
    assert "1 passed, 1 skipped" in done.stdout
