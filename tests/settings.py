"""The project's settings as tests see them: development's, with a password hasher that is quick."""

import os

os.environ.setdefault("DEBUG", "1")

from project.settings import *
from project.settings import CHANNEL_LAYERS, REDIS_URL

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
CHAT_PROVIDER = "scripted"
if REDIS_URL:  # processes that run tests beside each other share it, and must not hear each other's news
    CHANNEL_LAYERS["default"]["CONFIG"]["prefix"] = f"asgi{os.environ.get('PYTEST_XDIST_WORKER', '')}"
