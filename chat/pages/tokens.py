"""The access tokens on the page of one's devices: making one, whose secret that one answer shows, and ending it.

Nothing here decides what a token opens; the transport does.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any
from uuid import UUID

from django import forms
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django_htmx.http import HttpResponseClientRefresh

from chat import news
from chat.errors import Refused
from chat.models import AccessToken
from chat.pages import accounts

View = Callable[..., HttpResponse]


class TokenForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = AccessToken
        fields = ["name"]

    def clean_name(self) -> str:
        name = " ".join(self.cleaned_data["name"].split())
        # Characters that only format others make a name nobody sees in the list.
        if not any(character.isprintable() for character in name):
            raise forms.ValidationError("Give it a name that can be read.")
        return name


def _form(view: View) -> View:
    """A form on the page of one's devices, for signed-in people: whoever comes by a link is shown that page.

    htmx loads the page again for who is no longer signed in, or it would put a sign-in page into it.
    """

    @never_cache
    @wraps(view)
    def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if request.method != "POST":
            return redirect("devices")
        if _is_htmx(request) and not request.user.is_authenticated:
            return HttpResponseClientRefresh()
        answer: HttpResponse = login_required(view)(request, *args, **kwargs)
        return answer

    return checked


def _is_htmx(request: HttpRequest) -> bool:
    return bool(request.htmx)  # type: ignore[attr-defined]


@_form
def make(request: HttpRequest) -> HttpResponse:
    """The answer has the secret, or says what was wrong."""
    form = TokenForm(request.POST)
    if not form.is_valid():
        return _shown(request, status=422, token_form=form)
    try:
        made, secret = AccessToken.issue(request.user, form.cleaned_data["name"])
    except Refused as refusal:
        form.add_error(None, refusal.message)
        return _shown(request, status=422, token_form=form)
    return _shown(request, made=made, secret=secret)


@_form
def revoke(request: HttpRequest, token: UUID) -> HttpResponse:
    """End the connections it has opened, at once and for good."""
    found = get_object_or_404(AccessToken, pk=token, user=request.user)
    found.revoke()
    news.tell_people({"token": found.key})
    if not _is_htmx(request):
        return redirect("devices")
    found.refresh_from_db()
    return render(request, "chat/_token_row.html", {"token": found})


def _shown(request: HttpRequest, status: int = 200, **about: Any) -> HttpResponse:
    """The tokens alone, to htmx; with the whole page otherwise."""
    if not _is_htmx(request):
        return accounts.devices_page(request, status, **about)
    found = {"tokens": accounts.tokens_of(request.user), **about}
    return render(request, "chat/_tokens.html", found, status=status)
