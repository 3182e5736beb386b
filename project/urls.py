"""URLs of the whole site."""

from django.contrib import admin
from django.urls import include, path

from chat.pages.accounts import SignOut

urlpatterns = [
    # Ours, so that leaving by the admin ends the live connections too.
    path("admin/logout/", SignOut.as_view(next_page="admin:index")),
    path("admin/", admin.site.urls),
    path("", include("chat.urls")),
]
