"""The project's settings with the benches' own providers."""

from project.settings import *  # noqa: F403
from project.settings import CHAT_PROVIDERS as _PROVIDERS

CHAT_PROVIDERS = {
    **_PROVIDERS,
    "bench": "bench.provider.Stamping",
    "journaling": "bench.provider.Journaling",
}
