"""What the layout promises, read from the syntax trees: imports point one way, and a few things are done nowhere."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CHAT = sorted(path for path in (ROOT / "chat").rglob("*.py") if "migrations" not in path.parts)
TREES = {path: ast.parse(path.read_text()) for path in [*CHAT, *sorted((ROOT / "project").glob("*.py"))]}

# Lowest first; a module may import what is on its own layer or below. A name stands for a module or a package.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "approval", "client", "contents", "prices", "metrics", "logs", "tracing", "exporting"),
    ("models", "log", "compaction", "turns", "bulletin"),
    ("database", "ending", "batches", "layer", "news", "roster", "allowance"),
    ("spoken", "wire", "transcript", "markup", "templatetags", "fragments", "reading"),
    ("hub", "lane"),
    ("feed", "group_commit", "host", "census", "tidying"),
    ("agent", "transport", "pages", "admin"),
    (
        *("urls", "routing", "apps", "server", "management"),
        *("checks", "checks_agents", "checks_budgets", "checks_files", "checks_names", "checks_window"),
    ),
)
EDGES = LAYERS[6]


def module(path: Path) -> str:
    """chat/agent/engine.py → chat.agent.engine"""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every module imported anywhere in a file, with the line. `from a import b` counts as a.b, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def part(name: str) -> str:
    """The name in LAYERS a module of the app belongs to, or nothing: `from chat import wire` is chat.wire."""
    names = name.split(".")
    return names[1] if names[0] == "chat" and len(names) > 1 else ""


def layer_of(name: str) -> int:
    found = [number for number, names in enumerate(LAYERS) if name in names]
    assert found, f"chat/{name} is on no layer: say in LAYERS what it may import"
    return found[0]


def only_for_types(tree: ast.Module) -> set[int]:
    """The lines under `if TYPE_CHECKING`: they import nothing."""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    return {line for block in blocks for line in range(block.lineno, (block.end_lineno or block.lineno) + 1)}


@pytest.mark.parametrize("path", CHAT, ids=module)
def test_imports_point_down(path: Path) -> None:
    here = part(module(path))
    if not here:
        assert not list(imports(TREES[path])), "chat/__init__.py imports nothing"
        return
    ignored = only_for_types(TREES[path])
    for name, line in imports(TREES[path]):
        there = part(name)
        if line in ignored or not there or there == here:
            continue
        assert layer_of(there) <= layer_of(here), f"{path.name}:{line} imports {name}, which is above it"
        assert not (here in EDGES and there in EDGES), (
            f"{path.name}:{line}: {here} and {there} must not know each other"
        )


def test_nothing_in_the_app_knows_the_project() -> None:
    allowed = {"chat.management.commands.serve", "chat.management.commands.work"}
    for path in CHAT:
        if any(name.startswith("project.") for name, _ in imports(TREES[path])):
            assert module(path) in allowed


def test_only_claude_imports_the_sdk() -> None:
    users = {module(path) for path in TREES for name, _ in imports(TREES[path]) if name.split(".")[0] == "anthropic"}
    assert users == {"chat.agent.claude"} or users == {"chat.agent.claude", "chat.agent.claude_errors"}


def test_only_the_links_to_servers_and_their_tools_import_mcp() -> None:
    """It is an extra: nothing else may need it, and it is imported where a setting names a server."""
    users = {module(path) for path in TREES for name, _ in imports(TREES[path]) if name.split(".")[0].startswith("mcp")}
    assert users == {"chat.agent.mcp_link", "chat.agent.mcp_tools"}
    importers = {module(path) for path in TREES for name, _ in imports(TREES[path]) if name.startswith(tuple(users))}
    assert importers == {"chat.agent.mcp_tools"}


def test_the_client_imports_nothing_else_of_the_project_nor_django() -> None:
    own = [path for path in CHAT if part(module(path)) == "client"]
    assert own
    for path in own:
        for name, line in imports(TREES[path]):
            known = name.split(".")[0] in {"chat", "project", "django", "channels", "asgiref"}
            assert not known or name.startswith("chat.client."), f"{path.name}:{line}"


def test_doors_and_engine_are_joined_in_one_place() -> None:
    joining = set()
    for path, tree in TREES.items():
        parts = {part(name) for name, _ in imports(tree)}
        if {"agent", "transport"} <= parts:
            joining.add(module(path))
    assert joining == {"project.asgi"}


def test_no_import_hides_in_a_function() -> None:
    allowed = {
        "chat.management.commands.serve",
        "chat.management.commands.work",
        "chat.apps",
    }  # Django is not ready before `ready`
    for path in CHAT:
        for function in ast.walk(TREES[path]):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                hidden = [line for _, line in imports(function)]
                assert not hidden or module(path) in allowed, f"{path.name}:{hidden}"


def test_no_hooks_on_save() -> None:
    for path, tree in TREES.items():
        for name, line in imports(tree):
            assert not name.startswith(("django.dispatch", "django.db.models.signals")), f"{path.name}:{line}"
            assert not name.startswith("django.core.signals"), f"{path.name}:{line}"
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and module(path).startswith("chat.models"):
                own = {item.name for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)}
                assert not own & {"save", "delete", "full_clean", "clean"}, f"{path.name}: {node.name}"


def test_no_file_is_longer_than_three_hundred_lines() -> None:
    assert [module(path) for path in CHAT if len(path.read_text().splitlines()) > 300] == []


def calls(tree: ast.AST, name: str) -> list[int]:
    """The lines where something of this name is called."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [node.lineno for node in found if ast.unparse(node.func).split(".")[-1] == name]


def test_nothing_of_the_agent_waits_in_a_way_that_swallows_a_cancel() -> None:
    for path in CHAT:
        if part(module(path)) == "agent":
            assert not calls(TREES[path], "wait_for"), path.name


def own(function: ast.AST) -> Iterator[ast.AST]:
    """What a function does itself: not what the functions written in it do, which may run on another thread."""
    for node in ast.iter_child_nodes(function):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from own(node)


# Whatever waits while something else may run.
PAUSES = (ast.Await, ast.AsyncFor, ast.AsyncWith, ast.Yield, ast.YieldFrom)


def held_while_waiting(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every `with` of a coroutine that waits inside it, and every transaction a generator gives up control in."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if any("contextmanager" in ast.unparse(decorator) for decorator in function.decorator_list):
            continue  # holds what it holds for as long as whoever uses it in a `with`: that is looked at there
        for block in own(function):
            if isinstance(block, ast.With) and any(isinstance(node, PAUSES) for node in own(block)):
                yield from ((block.lineno, ast.unparse(item.context_expr)) for item in block.items)


def test_no_lock_and_no_transaction_is_held_across_an_await() -> None:
    """What is done to the database is a function, done as a whole in a thread: see `chat/database.py`."""
    opens = {"atomic", "writing", "locked", "select_for_update", "set_autocommit"}
    for path, tree in TREES.items():
        for line, held in held_while_waiting(tree):
            assert held.startswith("suppress("), f"{path.name}:{line} waits in `with {held}`"
        for function in ast.walk(tree):
            if isinstance(function, ast.AsyncFunctionDef):
                for node in own(function):
                    called = ast.unparse(node.func).split(".")[-1] if isinstance(node, ast.Call) else ""
                    assert called not in opens, f"{path.name}:{function.name}: `{called}` in a coroutine"
        assert "ASYNC_UNSAFE" not in path.read_text(), f"{path.name}: Django would no longer object"


def test_a_caught_cancel_is_raised_again() -> None:
    for path, tree in TREES.items():
        for handler in ast.walk(tree):
            if isinstance(handler, ast.ExceptHandler) and handler.type is not None:
                caught = ast.unparse(handler.type)
                if "CancelledError" in caught or "BaseException" in caught:
                    body = ast.Module(body=handler.body, type_ignores=[])
                    passed_on = any(isinstance(node, ast.Raise) for node in ast.walk(body)) or "throw" in ast.unparse(
                        body
                    )
                    assert passed_on, f"{path.name}:{handler.lineno}"


def test_events_are_created_by_the_log_alone() -> None:
    for path, tree in TREES.items():
        if module(path) in {"chat.log", "chat.batches"}:
            continue
        made = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Event"]
        assert not made, path.name
        source = ast.unparse(tree)
        for verb in ("create", "bulk_create", "get_or_create", "update_or_create", "acreate", "abulk_create"):
            assert f"Event.objects.{verb}" not in source, path.name
        assert "chat_event" not in source, path.name


def test_nobody_changes_an_event() -> None:
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in {"update", "bulk_update"}:
                assert "Event.objects" not in ast.unparse(node.func), f"{path.name}:{node.lineno}"


def test_every_module_says_what_it_is() -> None:
    for path in CHAT:
        if path.read_text().strip():
            assert ast.get_docstring(TREES[path]), path
