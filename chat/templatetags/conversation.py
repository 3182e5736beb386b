"""What the templates of a conversation need beyond Django's own tags."""

from datetime import datetime, timedelta

from django import template
from django.utils import timezone
from django.utils.safestring import SafeString, mark_safe
from django.utils.timesince import timesince

from chat.markup import RENDERED_LIMIT, exactly, render_markdown

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
def ago(moment: datetime) -> str:
    """How long since, in one unit: a list is looked over, not studied."""
    if timezone.now() - moment < timedelta(minutes=1):
        return "just now"
    return f"{timesince(moment, depth=1)} ago"
