"""From the address of a conversation's page to those of its doors, and who we say we are there."""

import re
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit

_PAGE = re.compile(r"(?P<prefix>.*?)/conversations/(?P<id>[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})/?")
SUBPROTOCOL = "conversation.v1.json"
_SECRET = re.compile(r"[!-~]*")  # what a header takes as one word


@dataclass(frozen=True, slots=True)
class Address:
    """`origin` is scheme, host and port; `prefix` is a path before all of the site's, usually empty."""

    origin: str
    prefix: str
    conversation: str

    @classmethod
    def of(cls, url: str) -> "Address":
        """Raises ValueError for what is not a conversation's page."""
        parts = urlsplit(url)
        page = _PAGE.fullmatch(parts.path)
        if parts.scheme not in {"http", "https"} or not parts.netloc or page is None:
            raise ValueError(f"not the address of a conversation, http(s)://HOST/conversations/ID/: {url}")
        return cls(f"{parts.scheme}://{parts.netloc}", page["prefix"], page["id"].lower())

    def websocket(self, query: dict[str, str]) -> str:
        return f"ws{self.origin[4:]}{self.prefix}/ws/conversations/{self.conversation}/?{urlencode(query)}"

    @property
    def events(self) -> str:
        return f"{self.origin}{self.prefix}/api/conversations/{self.conversation}/events"

    @property
    def files(self) -> str:
        return f"{self.origin}{self.prefix}/api/conversations/{self.conversation}/files"

    def file(self, file: str) -> str:
        """Where a file of that id is."""
        return f"{self.origin}{self.prefix}/conversations/{self.conversation}/files/{file}/"

    @property
    def signals(self) -> str:
        return f"{self.origin}{self.prefix}/api/conversations/{self.conversation}/signals"


@dataclass(frozen=True, slots=True)
class Identity:
    """An access token, or the cookie of a session."""

    token: str = field(default="", repr=False)
    session: str = field(default="", repr=False)
    cookie: str = "sessionid"

    @classmethod
    def of(cls, token: str, session: str = "") -> "Identity":
        """As they come out of a file, with a line's end. Raises ValueError, which does not repeat the secret."""
        token, session = token.strip(), session.strip()
        for name, secret in (("access token", token), ("session", session)):
            if _SECRET.fullmatch(secret) is None:
                raise ValueError(f"The {name} is none: it has spaces or other characters that no {name} has.")
        return cls(token, session)

    def headers(self) -> dict[str, str]:
        if self.token:
            return {"Authorization": f"Bearer {self.token}"}
        return {"Cookie": f"{self.cookie}={self.session}"}

    def speaking(self, origin: str) -> dict[str, str]:
        """A cookie is sent by any page, so the server wants to know which one: ours has the server's own origin."""
        return self.headers() if self.token else {**self.headers(), "Origin": origin}
