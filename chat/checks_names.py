"""Of the names of settings: one that is misspelt in the environment would do nothing and say nothing."""

import os
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Warning, register  # noqa: A004

OURS = "CHAT_"
ALIKE = 0.85  # orchestrators put names of their own there (CHAT_PORT, CHAT_SERVICE_HOST), which are like none of ours


@register()
def what_they_are_called(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> Iterable[CheckMessage]:
    """Only what looks like one of ours is spoken of."""
    known = [name for name in dir(settings) if name.startswith(OURS)]
    for name in sorted(os.environ):
        if name.startswith(OURS) and name not in known and (meant := get_close_matches(name, known, 1, ALIKE)):
            hint = f"Is it {meant[0]}? docs/settings.md lists them all."
            yield Warning(f"{name} is in the environment, and no setting is called that.", hint=hint, id="chat.W004")
