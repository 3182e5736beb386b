"""What the templates of a conversation need beyond Django's own tags."""

import json
import re
from collections.abc import Iterable
from datetime import datetime, timedelta

from django import template
from django.conf import settings
from django.utils import timezone
from django.utils.safestring import SafeString, mark_safe
from django.utils.timesince import timesince

from chat.approval import visible as made_visible
from chat.markup import RENDERED_LIMIT, exactly, render_markdown
from chat.models import Run
from chat.models.parts import Part, files_in
from chat.prices import tokens_in, written
from chat.transcript import Answer

register = template.Library()

# Code points; whoever wants all of it gets it as a page of its own.
SHOWN = 2_000  # of arguments and of a result: there may be a hundred of each in an answer, which is one frame
TO_DECIDE = 20_000  # of what somebody is asked about
BRIEF = 120
PICTURE = (320, 240)  # the largest place an image has in a message


@register.filter
def markdown(text: str) -> SafeString:
    """The whole text of an ended answer, rendered."""
    return mark_safe(render_markdown(text))  # noqa: S308 - sanitised there


@register.filter
def is_endless(one: Answer | Part) -> bool:
    """Too long to be shown rendered: a page shows its beginning, and where all of it is."""
    if not isinstance(one, Answer):
        return _rendered_size(one) > RENDERED_LIMIT
    said = [part for part in one.parts if part["type"] == "text"]
    return not one.run.is_live and sum(_rendered_size(part) for part in said) > RENDERED_LIMIT


def _rendered_size(part: Part) -> int:
    """Of its HTML, or of its text if that is too long already."""
    text: str = part["text"]
    return len(text) if len(text) > RENDERED_LIMIT else len(render_markdown(text))


@register.filter
def exact(text: str) -> SafeString:
    """Plain text that a page shows character for character."""
    return mark_safe(exactly(text))  # noqa: S308 - escaped there


@register.filter
def visible(text: str) -> SafeString:
    """The same with what cannot be seen made to be seen."""
    return mark_safe(exactly(made_visible(text)))  # noqa: S308 - escaped there


@register.filter
def marked(text: SafeString) -> SafeString:
    """What was made visible stands out. Nothing else can look like it: the text's own brackets are written so, too."""
    return mark_safe(re.sub("⟨U\\+[0-9A-F]{4,6}⟩", r"<mark>\g<0></mark>", text))  # noqa: S308 - escaped before


# --- calls and results: the beginning of what is long ---------------------------------------------------------


@register.simple_tag
def shown_limit() -> int:
    """How many code points of arguments and results a page shows."""
    return SHOWN


@register.simple_tag
def decision_limit() -> int:
    """How many of what waits for a decision."""
    return TO_DECIDE


@register.simple_tag
def approvers() -> str:
    """The roles that may decide."""
    return " ".join(settings.CHAT_APPROVERS)


@register.filter
def is_long(text: str, limit: int = SHOWN) -> bool:
    return len(text) > limit


@register.filter
def beginning(text: str, limit: int = SHOWN) -> str:
    return text[:limit]


@register.filter
def brief(text: str) -> str:
    """One line of it, for a fold that is closed."""
    line = made_visible(" ".join(text[: 4 * BRIEF].split()))
    return line if len(line) <= BRIEF else line[: BRIEF - 1] + "…"


@register.filter
def result_of(parts: Iterable[Part], call: Part) -> tuple[int, Part] | None:
    """The number of the part that is this call's result, and the part."""
    results = ((number, part) for number, part in enumerate(parts) if part["type"] == "tool_result")
    return next(((number, part) for number, part in results if part["call"] == call["call"]), None)


@register.filter
def as_json(value: object) -> str:
    """For an attribute that a script reads. The same from every database: PostgreSQL keeps no order of keys."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


@register.filter
def is_question(part: Part) -> bool:
    """A call that is shown as what the agent asks its person."""
    return part["type"] == "tool_use" and part.get("name") == "ask_user" and "offer" in part


_DOING = {
    "asked": "is about to run",
    "waiting": "waits for approval",
    "approved": "was approved",
    "offered": "waits for a device",
    "running": "is running",
    "done": "has run",
    "error": "did not work",
    "denied": "was denied",
    "expired": "was not approved in time",
    "cancelled": "did not run",
    "unknown": "may have run",
}


_BUSY = frozenset({"", "asked", "approved", "running"})


@register.filter
def doing(part: Part) -> str:
    """What becomes of a call."""
    return _DOING.get(part.get("status", ""), "is being asked for")


@register.filter
def is_busy(part: Part) -> bool:
    """Whether a call comes to something without anybody's doing."""
    return part.get("status", "") in _BUSY


@register.filter
def decided(part: Part) -> str:
    """Who allowed it, or did not, and why."""
    approval = part["approval"]
    by = approval.get("by") or {}
    who = ", ".join(by[name] for name in ("user", "device_name") if by.get(name))
    what = {"approved": "Approved", "denied": "Denied"}.get(approval["decision"], "Nobody decided in time")
    reason = approval.get("reason", "").strip()
    return f"{what}{' by ' * bool(who)}{who}{f': “{reason}”' if reason else '.'}"


@register.filter
def files(parts: Iterable[Part]) -> list[Part]:
    """What is attached to a message."""
    return files_in(parts)


@register.filter
def shown_width(part: Part) -> int:
    """Of an image's place, which is there before the image is, so that nothing moves when it comes."""
    return max(1, round(float(part["width"]) * _shrunk(part)))


@register.filter
def shown_height(part: Part) -> int:
    """The same."""
    return max(1, round(float(part["height"]) * _shrunk(part)))


def _shrunk(part: Part) -> float:
    most_width, most_height = PICTURE
    return float(min(1, most_width / part["width"], most_height / part["height"]))


@register.filter
def money(millionths: int) -> str:
    """A sum."""
    return written(millionths, settings.CHAT_CURRENCY)


@register.filter
def thousands(count: int) -> str:
    """A number that can be read."""
    return f"{count:,}"


@register.filter
def used(run: Run) -> str:
    """What an answer has used, in tokens and in money; empty if nothing."""
    tokens_out = run.usage.get("output_tokens", 0)
    if not run.usage:
        return ""
    read = tokens_in(run.usage)
    said = f"{'about ' if run.estimated else ''}{tokens_out:,}"
    tokens = f"{read:,} tokens in, {said} out" if read or not run.estimated else f"{said} tokens out"  # 0 is not known
    if run.cost is None:
        return f"{tokens} · cost unknown"
    pretended = " (pretended)" if run.model == PRETENDED else ""
    return f"{tokens} · about {written(run.cost, settings.CHAT_CURRENCY)}{pretended}"


PRETENDED = "scripted"  # the model of the demonstration, which costs nothing


@register.filter
def moment(text: str) -> datetime:
    """Of a time as a part has it."""
    return datetime.fromisoformat(text)


@register.filter
def ago(moment: datetime) -> str:
    """How long since, in one unit: a list is looked over, not studied."""
    if timezone.now() - moment < timedelta(minutes=1):
        return "just now"
    return f"{timesince(moment, depth=1)} ago"
