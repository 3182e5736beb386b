"""What the templates of a conversation need beyond Django's own tags."""

from datetime import datetime, timedelta

from django import template
from django.utils import timezone
from django.utils.safestring import SafeString, mark_safe
from django.utils.timesince import timesince

from chat.approval import visible as made_visible
from chat.markup import RENDERED_LIMIT, exactly, render_markdown
from chat.models.parts import Part

register = template.Library()


@register.filter
def markdown(text: str) -> SafeString:
    """The whole text of an ended answer, rendered."""
    return mark_safe(render_markdown(text))  # noqa: S308 - sanitised there


@register.filter
def is_endless(text: str) -> bool:
    """Too long to be shown rendered: a page shows its beginning, and where all of it is."""
    return len(text) > RENDERED_LIMIT or len(render_markdown(text)) > RENDERED_LIMIT


@register.filter
def exact(text: str) -> SafeString:
    """Plain text that a page shows character for character."""
    return mark_safe(exactly(text))  # noqa: S308 - escaped there


@register.filter
def visible(text: str) -> SafeString:
    """The same with what cannot be seen made to be seen."""
    return mark_safe(exactly(made_visible(text)))  # noqa: S308 - escaped there


_DOING = {
    "asked": "is about to run",
    "waiting": "waits for approval",
    "approved": "is about to run",
    "running": "is running",
    "done": "has run",
    "error": "did not work",
    "denied": "was denied",
    "expired": "was not approved in time",
    "cancelled": "did not run",
    "unknown": "may have run",
}


@register.filter
def doing(part: Part) -> str:
    """What becomes of a call."""
    return _DOING.get(part.get("status", ""), "is being asked for")


@register.filter
def outcome(part: Part) -> str:
    """Of a result that is none."""
    return _DOING[part["outcome"]].capitalize()


@register.filter
def decided(part: Part) -> str:
    """Who allowed it, or did not, and why."""
    approval = part["approval"]
    who = approval["by"]["user"] if approval.get("by") else ""
    what = {"approved": "Approved", "denied": "Denied"}.get(approval["decision"], "Nobody decided in time")
    reason = f": {approval['reason']}" if approval.get("reason") else ""
    return f"{what}{f' by {who}' if who else ''}{reason}"


@register.filter
def ago(moment: datetime) -> str:
    """How long since, in one unit: a list is looked over, not studied."""
    if timezone.now() - moment < timedelta(minutes=1):
        return "just now"
    return f"{timesince(moment, depth=1)} ago"
