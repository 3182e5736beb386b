"""What the scripted provider says unless it is told something: Markdown of every kind, made from the prompt alone."""

import base64
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from chat.agent.provider import STOPPED_MARK, PromptMessage, asked_in


def demonstration(prompt: Sequence[PromptMessage]) -> str:
    """Markdown of every kind, worth watching at 40 tokens a second: the same prompt gives the same text."""
    asked = " ".join(asked_in(prompt).split()) or "nothing at all"
    words = asked.split()
    return _DEMONSTRATION.format(
        remembered=_remembered(prompt),
        opening=_OPENINGS[zlib.crc32(asked.encode()) % len(_OPENINGS)],
        quote=asked if len(asked) <= 120 else asked[:119] + "…",
        words=len(words),
        characters=len(asked),
        longest=max(words, key=len)[:40].replace("|", "¦"),
        turns=sum(message["role"] == "user" for message in prompt),
    )


def text_of(message: PromptMessage) -> str:
    """The text blocks of one message."""
    return "\n".join(str(block.get("text", "")) for block in message["content"] if block.get("type") == "text")


def recap_of(asked: str) -> str:
    """A summary of a conversation, made of its first words."""
    said = [line.removeprefix("User: ") for line in asked.splitlines() if line.startswith("User: ")]
    lines = [f"- {' '.join(line.split()[:8])}" for line in said[-20:]]
    return "\n".join([f"{len(said)} things were asked here, among them:", *lines])


def seen_in(prompt: Sequence[PromptMessage]) -> str:
    """The files that came with the last message, as somebody says who really has them; empty if none did."""
    seen = list(_seen(prompt[-1]["content"]))
    return "\n".join(["This is what I was given:\n", *(f"- {line}" for line in seen)]) if seen else ""


def _seen(blocks: Sequence[dict[str, Any]]) -> Iterator[str]:
    for before, block in pairwise([{}, *blocks]):
        if block["type"] not in ("image", "document"):
            continue
        name, source = str(before.get("text", "")).strip("[]").partition(": ")[2], block["source"]
        if source["type"] == "text":
            text = source["data"]
            yield f"{name}: a text of {len(text):,} characters that begins “{' '.join(text.split())[:60]}”"
        else:
            size = len(base64.b64decode(source["data"]))
            yield f"{name}: {source['media_type']}, {size:,} bytes"


def _remembered(prompt: Sequence[PromptMessage]) -> str:
    """Shows that a stopped answer is part of the prompt."""
    answers = [text_of(message) for message in prompt if message["role"] == "assistant"]
    if not answers or not answers[-1].endswith(STOPPED_MARK):
        return ""
    last = " ".join(answers[-1].removesuffix(STOPPED_MARK).split()[-6:])
    return f"You stopped me at “… {last}”, and I know it.\n\n" if last else "You stopped me at once.\n\n"


_OPENINGS = (
    "Here is an answer that takes its time, so that there is something to watch.",
    "Let me answer slowly: what is worth seeing is how it arrives.",
    "Good. This answer is made of words, and of every other thing that Markdown has.",
)
_DEMONSTRATION = """\
{remembered}{opening} You wrote:

> {quote}

## What to try while this is written

1. **Open this conversation on a second device.** It shows the same words at the same place, \
and goes on with the next one.
2. **Close this page and come back.** Nobody has to watch: the answer is written by a worker, \
and you find all of it.
3. **Switch the network off for a moment.** The page says so, and continues afterwards with the very next \
word, \
without a gap and without a repetition.
4. **Press stop on any screen.** The call to the model ends, and every screen knows it. \
Then send something: the answer begins with the words I was stopped at.

## How it works

Every piece of this text is an *event* in one append-only log. An event has a serial number without gaps, \
and it is \
stored before anybody sees it. A device knows the last serial it has applied, and nothing else. So \
whatever happens \
to a connection, the next question is always the same one:

```python
async def follow(conversation, device):
    cursor = device.cursor
    while True:
        async for event in conversation.events(after=cursor):
            assert event.after <= cursor < event.serial
            device.show(event)
            cursor = event.serial
        await conversation.news()
```

The news may get lost, the log may not. That is why the reader looks at the serials and not at the news, \
and why it also looks again from time to time without any.

## Your message in figures

| What | How much |
|---|---:|
| Words | {words} |
| Characters | {characters} |
| Longest word | {longest} |
| Your messages so far | {turns} |

### What a lost connection means

- For **you**: a short pause, then the rest.
- For **the answer**: nothing. It is written to the end.
- For **other people here**: nothing. They did not even notice.

A connection that ends is not a wish, and `stop` is one. Programs that cannot tell the two apart have to \
choose \
what they break: either the answer that you wanted, or the button that should have ended it. Here the wish \
is an \
event with an id of its own, it is stored before it is carried out, and it does no harm to send it twice.

That was all. Ask me `/long 400` for a longer one, or `/rate 200 /long 2000` for a fast one. ~~I could go \
on.~~ \
I have said what I was told to say.
"""
