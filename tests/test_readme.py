"""The README says what is true and stays short."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

from chat.agent.tool import tool_of
from chat.agent.toolbox import functions_at, tools

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def test_it_is_short_enough_to_be_read() -> None:
    assert len(README.splitlines()) < 120


def test_every_make_target_it_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z-]+)", README)) - {"nothing"} <= targets


def test_every_management_command_it_names_exists() -> None:
    ours = {path.stem for path in (ROOT / "chat/management/commands").glob("*.py")}
    djangos = {"check", "migrate", "collectstatic", "createsuperuser"}
    assert set(re.findall(r"manage\.py ([a-z_]+)", README)) <= ours | djangos


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    linked = re.findall(r"\]\(([^)#:]+)\)", text)
    for name in linked:
        assert (page.parent / name).exists(), name
    for name in re.findall(r"`((?:chat|tests|static|bench|docs|project)/[\w/.-]+)`", text):
        assert (ROOT / name).exists(), name


def test_what_it_says_of_the_scripted_provider_is_so() -> None:
    documented = (ROOT / "chat/agent/scripted.py").read_text().split('"""')[1]
    for directive in re.findall(r"`(/[a-z-]+)", README):
        assert directive in documented, directive


def test_every_tool_a_page_lets_the_scripted_provider_ask_for_is_there() -> None:
    there = set(tools())
    asked = {name for page in PAGES for name in re.findall(r"/tool ([a-zA-Z0-9_-]+)", page.read_text())}
    assert "rename_conversation" in asked
    assert asked - {"water_level"} <= there  # which is the page's own example


def test_the_page_about_tools_lists_those_that_come_with_it() -> None:
    page = (ROOT / "docs/tools.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \| `(chat\.agent\.tools\.\w+)` \|", page, re.MULTILINE)
    assert [path for _, path in listed] == settings.CHAT_TOOLS
    assert [name for name, _ in listed] == list(tools())


@pytest.mark.parametrize("name", ["tools.md", "own-agent.md"])
def test_the_examples_of_a_page_for_authors_are_whole(name: str) -> None:
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / name).read_text(), re.DOTALL):
        ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821,F401", "-"]
        checked = subprocess.run(ruff, input=block, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("number", [0, 1])
def test_the_tools_that_the_page_about_tools_shows_can_be_named_as_they_stand(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = re.findall(r"```python\n(.*?)```", (ROOT / "docs/tools.md").read_text(), re.DOTALL)[number]
    (tmp_path / f"shown_{number}.py").write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    assert [tool_of(one).name for one in functions_at(f"shown_{number}")] == [["water_level"], ["where_am_i"]][number]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_lets_people_install_can_be_installed(page: Path) -> None:
    """pip takes hashes in a file of constraints for an order to check all of them, and refuses what has none."""
    for line in page.read_text().splitlines():
        assert not re.search(r"pip install .*(--constraint|-c) *requirements", line), line
