"""Django's entry to the app."""

from django.apps import AppConfig


class ChatConfig(AppConfig):
    name = "chat"
    verbose_name = "Conversations"

    def ready(self) -> None:
        from chat import (  # noqa: PLC0415 - importing registers them; the apps must be ready
            checks,  # noqa: F401
            checks_agents,  # noqa: F401
            checks_budgets,  # noqa: F401
            checks_files,  # noqa: F401
            checks_names,  # noqa: F401
            checks_window,  # noqa: F401
        )
