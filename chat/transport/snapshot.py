"""The newest page of a conversation as frames, for a device without a cursor that can be served."""

from typing import Any
from uuid import UUID

from chat import fragments, wire
from chat.database import Database
from chat.spoken import MAX_TEXT
from chat.transcript import as_json, read_transcript

SNAPSHOT_TEXT = 120_000  # code points of text in a snapshot frame; the rest follows in `snapshot.text` frames


async def snapshot(database: Database, conversation: UUID, encoding: str) -> tuple[int, list[str]]:
    """The serial it stands at, and its frames in order."""
    return await database.run(_snapshot, conversation, encoding)


def _snapshot(conversation: UUID, encoding: str) -> tuple[int, list[str]]:
    if encoding == "html":
        serial, html = fragments.snapshot(conversation)
        return serial, [wire.control("snapshot", serial=serial, html=html)]
    transcript = read_transcript(conversation)
    body = as_json(transcript)
    rest = cut_texts(body)
    return transcript.serial, [
        wire.control("snapshot", serial=transcript.serial, **body),
        *(
            wire.control("snapshot.text", message=message, part=part, offset=offset, text=text)
            for message, part, offset, text in rest
        ),
    ]


def cut_texts(body: dict[str, Any]) -> list[tuple[str, int, int, str]]:
    """Cut what is too long out of a JSON transcript: [(message, part, offset, text)] to send after it, in order."""
    rest: list[tuple[str, int, int, str]] = []
    room = SNAPSHOT_TEXT

    def cut(message: str, parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
        nonlocal room
        short = []
        for number, part in enumerate(parts):
            if "text" not in part:  # a file
                short.append(part)
                continue
            text = part["text"]
            start = min(room, len(text))
            room -= start
            rest.extend((message, number, at, text[at : at + MAX_TEXT]) for at in range(start, len(text), MAX_TEXT))
            short.append({**part, "text": text[:start]})
        return short

    for turn in reversed(body["turns"]):
        for answer in reversed(turn["answers"]):
            answer["parts"] = cut(answer["message"], answer["parts"])
        turn["parts"] = cut(turn["message"], turn["parts"])
        if "summary" in turn:  # what is too long for this frame, a page has
            turn["summary"] = {**turn["summary"], "text": turn["summary"]["text"][:room]}
            room -= len(turn["summary"]["text"])
    for waiting in body["queue"]:
        waiting["parts"] = cut(waiting["message"], waiting["parts"])
    return rest
