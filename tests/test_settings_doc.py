"""docs/settings.md lists what is read from the environment: all of it, nothing else, with the right defaults."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
READERS = {"_flag", "_list", "_whole", "_number", "os.environ.get", "os.getenv", "os.environ"}
# Chooses the settings themselves; says where a person's programs keep what they remember.
NOT_OURS = {"DJANGO_SETTINGS_MODULE", "XDG_STATE_HOME"}


def read_in(source: str) -> Iterator[tuple[str, ast.expr | None]]:
    """(name, default) of each variable that this Python code reads from the environment."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=called, args=[ast.Constant(value=str(name)), *rest]) if ast.unparse(called) in READERS:
                keywords = {keyword.arg: keyword.value for keyword in node.keywords}
                yield name, rest[0] if rest else keywords.get("default")
            case ast.Subscript(value=of, slice=ast.Constant(value=str(name))) if ast.unparse(of) in READERS:
                yield name, None
            case ast.Call(func=called) if ast.unparse(called) == "dj_database_url.config":
                yield "DATABASE_URL", None


def read_anywhere() -> dict[str, ast.expr | None]:
    found: dict[str, ast.expr | None] = {}
    for folder in ("project", "chat"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for name, default in read_in(path.read_text(encoding="utf-8")):
                if name not in NOT_OURS:
                    found[name] = found.get(name) or default
    return found


def documented() -> dict[str, str]:
    """name → default, as the tables have it."""
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.*?) \| (.*?) \|$", page, re.MULTILINE)
    names = [name for name, _, _ in rows]
    assert len(set(names)) == len(names), "a setting is there twice"
    assert all(meaning.endswith(".") for _, _, meaning in rows)
    return {name: default for name, default, _ in rows}


def test_every_setting_read_from_the_environment_is_documented_and_no_other() -> None:
    assert sorted(documented()) == sorted(read_anywhere())


def test_the_documented_defaults_are_the_real_ones() -> None:
    page = documented()
    compared = 0
    for name, default in read_anywhere().items():
        if isinstance(default, ast.Constant):
            value = str(int(default.value) if isinstance(default.value, bool) else default.value)
            assert page[name] == (f"`{value}`" if value else "empty"), name
            compared += 1
    assert compared > 15


def test_every_way_to_read_the_environment_is_seen() -> None:
    source = "_flag('A', default=True); _list('B', ''); os.environ.get('C'); os.environ['D']; os.getenv('E', 'e')"
    assert sorted(name for name, _ in read_in(source)) == ["A", "B", "C", "D", "E"]
