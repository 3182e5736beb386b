"""Close codes. Below 4500: come back, your cursor is good. From 4500 on: do not, until a person did something."""

from enum import IntEnum

from chat.errors import Code


class Close(IntEnum):
    """Why the server closed a connection. docs/protocol.md lists them."""

    DRAIN = 4000
    IDLE = 4001
    FEED_FAILED = 4002
    BAD_REQUEST = 4500
    SIGNED_OUT = 4501
    FORBIDDEN = 4503
    REVOKED = 4504
    ORIGIN = 4505

    @property
    def come_back(self) -> bool:
        return self.value < 4500


TROUBLE = "Something went wrong here. Come back in a moment."
REFUSALS = {Code.SIGNED_OUT: Close.SIGNED_OUT, Code.FORBIDDEN: Close.FORBIDDEN, Code.REVOKED: Close.REVOKED}
