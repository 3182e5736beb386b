"""Write the JSON Schema of all frames and signals to docs/protocol.schema.json."""

import json
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from chat.transport.shapes import schema


class Command(BaseCommand):
    help = "Write docs/protocol.schema.json from the code."

    def handle(self, *args: Any, **options: Any) -> None:
        path = settings.BASE_DIR / "docs" / "protocol.schema.json"
        path.write_text(rendered())
        self.stdout.write(f"wrote {path.relative_to(settings.BASE_DIR)}")


def rendered() -> str:
    """The file's text."""
    return json.dumps(schema(), indent=2, sort_keys=True) + "\n"
