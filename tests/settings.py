"""The project's settings as tests see them: development's, with a password hasher that is quick."""

import os

os.environ.setdefault("DEBUG", "1")

from project.settings import *

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
CHAT_PROVIDER = "scripted"
