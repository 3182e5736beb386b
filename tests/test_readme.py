"""The README says what is true and stays short."""

import re
from pathlib import Path

import pytest

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
