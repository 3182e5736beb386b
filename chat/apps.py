"""Django's entry to the app."""

from django.apps import AppConfig


class ChatConfig(AppConfig):
    name = "chat"
    verbose_name = "Conversations"

    def ready(self) -> None:
        from chat import agent_checks, checks  # noqa: F401, PLC0415 - importing registers them; the apps must be ready
