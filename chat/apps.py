"""Django's entry to the app."""

from django.apps import AppConfig


class ChatConfig(AppConfig):
    name = "chat"
    verbose_name = "Conversations"

    def ready(self) -> None:
        from chat import checks, checks_agents, window_checks  # noqa: F401, PLC0415 - importing registers them
