"""What a program that uses the client has to expect."""

from chat.client.facts import Budget


class Refused(Exception):
    """The server did not do what was asked, and nothing was changed. The message is for a person.

    `budget`: which one is used up, with the code of that name.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retryable: bool = False,
        retry_after: float = 0.0,
        budget: Budget | None = None,
    ) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message
        self.retryable = retryable
        self.retry_after = retry_after
        self.budget = budget


class Closed(Exception):
    """The server closed the conversation for us. Coming back is of no use until a person did something.

    `code` is the close code, from 4500 on; `reason` its name, such as `signed_out`.
    """

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(f"{message or 'The server closed the conversation.'} ({reason or code})")
        self.code = code
        self.reason = reason
        self.message = message


class Left(Exception):
    """We left the conversation before there was an answer. Asked again under the same id, it is there or comes."""


class Unreadable(Exception):
    """A frame without a field that it must have: the server speaks another protocol."""


class Lost(Exception):
    """The connection could not be made or has ended. Ordinary: the machine decides what comes next.

    `refused`: something answered, but not as this transport needs it, so another one may do better. `gateway`: a
    proxy answered that there is nobody behind it.
    """

    def __init__(self, why: str, *, code: int | None = None, refused: bool = False, gateway: bool = False) -> None:
        super().__init__(why)
        self.code = code
        self.refused = refused
        self.gateway = gateway


GATEWAY = {500, 502, 503, 504, 520, 521, 522, 523, 524}


def answered(status: int) -> Lost:
    """What to make of an HTTP status in place of a connection."""
    return Lost(f"the answer was HTTP {status}", refused=status not in GATEWAY, gateway=status in GATEWAY)
