"""Static files under names that change with their content, also those that only another module imports."""

from whitenoise.storage import CompressedManifestStaticFilesStorage

_, _IMPORTS = CompressedManifestStaticFilesStorage._js_module_import_aggregation_patterns


class HashedStorage(CompressedManifestStaticFilesStorage):  # type: ignore[misc]
    # Without it the browser's modules would import each other by their old names, and mix two releases.
    support_js_module_import_aggregation = True
    # Only ours: htmx has text that looks like an import of a file that is not there.
    _js_module_import_aggregation_patterns = ("chat/*.js", _IMPORTS)
