"""Where the pages of `accounts` and `tokens` are."""

from django.urls import path

from chat.pages import accounts, tokens

urlpatterns = [
    path("login/", accounts.SignIn.as_view(), name="login"),
    path("logout/", accounts.SignOut.as_view(), name="logout"),
    path("signup/", accounts.SignUp.as_view(), name="signup"),
    path("devices/", accounts.devices, name="devices"),
    path("devices/<uuid:device>/rename/", accounts.rename_device, name="device-rename"),
    path("devices/<uuid:device>/revoke/", accounts.revoke_device, name="device-revoke"),
    path("devices/tokens/", tokens.make, name="token-make"),
    path("devices/tokens/<uuid:token>/revoke/", tokens.revoke, name="token-revoke"),
]
