"""Signing in, up and out, and a user's devices. Leaving ends the live connections at once.

Nothing here decides who may read a conversation; it only ends sessions and devices, and says so.
"""

import re
from functools import lru_cache
from typing import Any, cast
from urllib.parse import urlsplit
from uuid import UUID

from django import forms
from django.conf import settings
from django.contrib.auth import login
from django.contrib.auth.decorators import login_required
from django.contrib.auth.forms import UserCreationForm
from django.contrib.auth.hashers import check_password
from django.contrib.auth.models import User
from django.contrib.auth.views import LoginView, LogoutView, RedirectURLMixin
from django.core.validators import RegexValidator
from django.db import IntegrityError, transaction
from django.db.models import F, QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import get_object_or_404, redirect, render, resolve_url
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST
from django.views.generic import FormView

from chat import news
from chat.models import AccessToken, Device

# Whom `seed_demo` makes, with their passwords.
DEMO_ACCOUNTS = {"alice": "alice-demo", "bob": "bob-demo"}
USERNAME_LENGTH = 30
SHOWN_DEVICES = 100
SHOWN_TOKENS = 100


class _Onward(RedirectURLMixin):
    """Where to go after: `next` if it leads somewhere on this site other than back to this very form."""

    request: HttpRequest

    def get_redirect_url(self, request: HttpRequest | None = None) -> str:
        url = super().get_redirect_url()
        return "" if urlsplit(url).path == self.request.path else url


class SignIn(_Onward, LoginView):
    # Signing in again would end the session that other tabs of this browser are connected with.
    redirect_authenticated_user = True

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(demo_accounts=demo_accounts(), may_sign_up=settings.SIGNUP, **kwargs)


class SignOut(LogoutView):
    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """End the session, then the connections opened with it. The user's other sessions stay."""
        session = request.session.session_key
        response = super().post(request, *args, **kwargs)
        if session is not None:
            news.tell_people({"session": session})
        return response


class SignUpForm(UserCreationForm):  # type: ignore[type-arg]
    """Django's, with names that read well in a list and cannot pass for somebody else's."""

    username = forms.CharField(
        max_length=USERNAME_LENGTH,
        validators=[
            RegexValidator(
                # ASCII, so that no name looks like another one and is not.
                re.compile(r"^[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?\Z", re.IGNORECASE),
                "Use letters (a to z), digits and . _ - inside, nothing else.",
            )
        ],
        widget=forms.TextInput(attrs={"autofocus": True, "autocomplete": "username", "autocapitalize": "none"}),
    )


@method_decorator([never_cache, sensitive_post_parameters()], name="dispatch")
class SignUp(_Onward, FormView):  # type: ignore[type-arg]
    template_name = "registration/signup.html"
    form_class = SignUpForm

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not settings.SIGNUP:
            raise Http404
        if request.user.is_authenticated:
            return redirect(self.get_success_url())
        return super().dispatch(request, *args, **kwargs)

    def get_default_redirect_url(self) -> str:
        return resolve_url(settings.LOGIN_REDIRECT_URL)

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(next=self.get_redirect_url(), **kwargs)

    def form_valid(self, form: SignUpForm) -> HttpResponse:
        try:
            with transaction.atomic():
                user = form.save()
        except IntegrityError:  # somebody was faster, after the form had looked
            form.add_error("username", "A user with that username already exists.")
            return self.form_invalid(form)
        login(self.request, user)
        return redirect(self.get_success_url())


def demo_accounts() -> list[tuple[str, str]]:
    """(name, password) of the seeded accounts that still have that password; none outside development."""
    if not settings.DEBUG:
        return []
    found = User.objects.filter(username__in=DEMO_ACCOUNTS, is_active=True).order_by("username")
    return [(name, DEMO_ACCOUNTS[name]) for name, has in found.values_list("username", "password") if _opens(name, has)]


@lru_cache(maxsize=8)
def _opens(name: str, encoded: str) -> bool:
    # Remembered, because a password hash is slow on purpose and the login page shows two.
    return check_password(DEMO_ACCOUNTS[name], encoded)


# --- devices ------------------------------------------------------------------------------------------------


class DeviceForm(forms.ModelForm):  # type: ignore[type-arg]
    class Meta:
        model = Device
        fields = ["name"]


@login_required
@never_cache
def devices(request: HttpRequest) -> HttpResponse:
    return devices_page(request)


def devices_page(request: HttpRequest, status: int = 200, **about_tokens: Any) -> HttpResponse:
    """The user's devices, those in use first, the last seen first; and their access tokens."""
    mine = Device.objects.filter(user=cast("User", request.user))
    found = mine.order_by(F("revoked_at").asc(nulls_first=True), "-last_seen_at")
    shown = {"devices": found[:SHOWN_DEVICES], "tokens": tokens_of(request.user), **about_tokens}
    return render(request, "chat/devices.html", shown, status=status)


def tokens_of(user: Any) -> QuerySet[AccessToken]:
    """The user's access tokens, those that stand first."""
    found = AccessToken.objects.filter(user=user)
    return found.order_by(F("revoked_at").desc(nulls_first=True), "-created_at")[:SHOWN_TOKENS]


@login_required
@require_POST
def rename_device(request: HttpRequest, device: UUID) -> HttpResponse:
    """Answers with the device's row, to htmx; with the whole page otherwise."""
    found = get_object_or_404(Device, pk=device, user=request.user, revoked_at=None)
    form = DeviceForm(request.POST, instance=found)
    if form.is_valid():
        found.save(update_fields=["name"])
    else:
        found.refresh_from_db(fields=["name"])
    return _row(request, found, form)


@login_required
@require_POST
def revoke_device(request: HttpRequest, device: UUID) -> HttpResponse:
    """End the device's connections at once and for good."""
    found = get_object_or_404(Device, pk=device, user=request.user)
    found.revoke()
    news.tell_people({"device": str(found.pk)})
    found.refresh_from_db()
    return _row(request, found)


def _row(request: HttpRequest, device: Device, form: DeviceForm | None = None) -> HttpResponse:
    if not request.htmx:  # type: ignore[attr-defined]
        return redirect("devices")
    refused = form is not None and not form.is_valid()
    return render(request, "chat/_device_row.html", {"device": device, "form": form}, status=422 if refused else 200)
