"""What is not there looks the same in development: Django's own page has styles, which our policy forbids."""

from django.http import Http404, HttpRequest, HttpResponseBase
from django.utils.deprecation import MiddlewareMixin
from django.views.defaults import page_not_found


class NotFound(MiddlewareMixin):
    """Of what a view did not find. An address that leads nowhere keeps Django's list of those that do."""

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponseBase | None:
        return page_not_found(request, exception) if isinstance(exception, Http404) else None
