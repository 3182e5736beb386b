"""Of files: limits that fit together. See `chat/checks.py`."""

from collections.abc import Iterable, Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from chat.contents import KNOWN
from chat.spoken import MOST_FILES

# The Messages API takes 32 MB; in base64 three bytes are four, and there is more in a request than files.
MOST_IN_PROMPT = 22_000_000


@register()
def what_people_may_attach(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> Iterable[CheckMessage]:
    """Types, sizes and numbers."""
    for kind in settings.CHAT_FILE_TYPES:
        if kind not in KNOWN:
            hint = f"It can have: {', '.join(KNOWN)}. Anything else would have to be recognised, and shown to a model."
            yield Error(f"CHAT_FILE_TYPES has {kind!r}, which is not known.", hint=hint, id="chat.E043")
    for name, most in (("CHAT_FILES_PER_MESSAGE", MOST_FILES), ("CHAT_FILES_UNSENT", 10_000)):
        if not 0 <= (value := getattr(settings, name)) <= most:
            yield Error(f"{name} is {value}.", hint=f"Give a number from 0 (no files) to {most}.", id="chat.E044")
    if not 0 < settings.CHAT_FILE_BYTES <= settings.CHAT_FILES_PROMPT_BYTES <= MOST_IN_PROMPT:
        yield Error(
            f"CHAT_FILE_BYTES is {settings.CHAT_FILE_BYTES}, and CHAT_FILES_PROMPT_BYTES is "
            f"{settings.CHAT_FILES_PROMPT_BYTES}.",
            hint="A file must be no larger than all that the model is shown at once, and that no larger than "
            f"{MOST_IN_PROMPT:,} bytes, or its service refuses the request.",
            id="chat.E045",
        )
