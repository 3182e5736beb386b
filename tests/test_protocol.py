"""docs/protocol.md and docs/protocol.schema.json against the code."""

import re
from pathlib import Path
from typing import get_args

import jsonschema
import pytest
from django.conf import settings

from chat import spoken, wire
from chat.errors import RETRYABLE, Code
from chat.management.commands.protocol_schema import rendered
from chat.models import Kind
from chat.models.state import ENDED
from chat.transport import post, shapes
from chat.transport.close import Close

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = (DOCS / "protocol.md").read_text()


def rows(heading: str) -> dict[str, list[str]]:
    """The rows of the first table under a heading, by the bare text of their first cell."""
    section = re.split(r"^#+ ", PAGE.split(f"# {heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    table = [
        [cell.strip() for cell in line.strip()[1:-1].split("|")]
        for line in section.splitlines()
        if line.startswith("|")
    ]
    return {cells[0].strip("`"): cells[1:] for cells in table[2:]}


def types_of(union: object) -> set[str]:
    members = get_args(get_args(union)[0])
    return {name for member in members for name in get_args(member.model_fields["type"].annotation)}


def test_every_frame_is_on_the_page_and_nothing_else() -> None:
    assert set(rows("Ranges: no gap, no repeat, in order")) == types_of(shapes.AnyFrame)


def test_every_kind_of_event_has_a_shape() -> None:
    assert types_of(shapes.AnyEvent) == {kind.value for kind in Kind}


def test_every_signal_is_on_the_page_with_its_fields_and_nothing_else() -> None:
    page = rows("Speaking")
    signals = {name: model for model in get_args(get_args(spoken.AnySignal)[0]) for name in types_of_one(model)}
    assert set(page) == set(signals)
    for name, model in signals.items():
        assert ("\u2713" in page[name][0]) == ("id" in model.model_fields), name
        for field in set(model.model_fields) - {"id", "type"}:
            assert f"`{field}`" in page[name][1], (name, field)


def types_of_one(model: type) -> tuple[str, ...]:
    names: tuple[str, ...] = get_args(model.model_fields["type"].annotation)  # type: ignore[attr-defined]
    return names


def test_every_refusal_is_on_the_page_and_says_truly_whether_to_try_again() -> None:
    page = rows("Refusals")
    assert set(page) == {code.value for code in Code}
    for code in Code:
        assert page[code.value][1].startswith("after") == (code in RETRYABLE), code


def test_every_status_of_a_refusal_is_on_the_page() -> None:
    told = PAGE.split("A `nack` comes with a status: ", 1)[1].split("; else 400", 1)[0]
    said = {code: int(one.split()[0]) for one in told.split("; ") for code in re.findall(r"`(\w+)`", one)}
    assert said == {code.value: status for code, status in post.STATUSES.items()}


def test_every_close_code_is_on_the_page() -> None:
    page = {int(code): cells[0].strip("` ") for code, cells in rows("Close codes").items()}
    assert page == {close.value: close.name.lower() for close in Close}


def test_every_limit_is_on_the_page_with_its_value() -> None:
    page = {
        name.removeprefix("limits."): int(re.findall(r"\d+", cells[0])[0]) for name, cells in rows("Limits").items()
    }
    assert page == {
        "signal_bytes": wire.MAX_SIGNAL_BYTES,
        "text": spoken.MAX_TEXT,
        "frame_bytes": wire.MAX_FRAME_BYTES,
        "window_bytes": wire.WINDOW_BYTES,
        "window_frames": wire.WINDOW_FRAMES,
        "file_bytes": settings.CHAT_FILE_BYTES,
        "files": settings.CHAT_FILES_PER_MESSAGE,
    }


def test_every_outcome_and_every_reason_of_a_reset_is_on_the_page() -> None:
    assert set(rows("Outcomes of a run")) == {state.value for state in ENDED}
    for reason in get_args(shapes.Reset.model_fields["reason"].annotation):
        assert f"`{reason}`" in PAGE


def test_the_committed_schema_is_the_one_the_code_makes() -> None:
    assert (DOCS / "protocol.schema.json").read_text() == rendered(), "run manage.py protocol_schema"


def test_the_schema_is_one_and_takes_what_it_should() -> None:
    schema = shapes.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    frames = jsonschema.Draft202012Validator({**schema, "$ref": "#/$defs/Frame"})
    frames.validate({"type": "sync", "serial": 5})
    with pytest.raises(jsonschema.ValidationError):
        frames.validate({"type": "sync", "serial": 5, "surprise": 1})
    signals = jsonschema.Draft202012Validator({**schema, "$ref": "#/$defs/Signal"})
    signals.validate({"type": "flow", "serial": 5})
    with pytest.raises(jsonschema.ValidationError):
        signals.validate({"type": "message.send", "text": "no id"})
