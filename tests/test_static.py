"""Static files as production serves them."""

import re
from pathlib import Path
from typing import Any

from django.core.management import call_command


def test_modules_import_each_other_by_the_names_of_their_content(settings: Any, tmp_path: Path) -> None:
    settings.STATIC_ROOT = tmp_path
    settings.STORAGES = {**settings.STORAGES, "staticfiles": {"BACKEND": "project.storage.HashedStorage"}}
    call_command("collectstatic", interactive=False, verbosity=0)
    modules = [path for path in (tmp_path / "chat").glob("*.js") if re.search(r"\.[0-9a-f]{12}\.js$", path.name)]
    imports = [(path, name) for path in modules for name in re.findall(r'from "\./([^"]+)"', path.read_text())]
    assert len(imports) > 10
    for path, name in imports:
        assert re.search(r"\.[0-9a-f]{12}\.js$", name), (path.name, name)
        assert (path.parent / name).exists(), (path.name, name)
