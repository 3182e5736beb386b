"""Files in messages: who may upload what, who sees it, what the model is shown, and that nothing stays behind."""

import asyncio
import base64
import contextlib
import io
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.utils import timezone
from PIL import Image
from pytest_django import Settings

from chat.agent.prompt import prompt_of
from chat.models import Conversation, File, Message, Participant, Run
from chat.models.file import cleaned
from tests.attaching import FORM_TYPE, Hand, bomb, form, kept, pdf, picture
from tests.conftest import with_settings
from tests.device import Device, until
from tests.doors import DOORS, exchange
from tests.guests import guest
from tests.locked import write_lock
from tests.messages_server import MessagesServer
from tests.remote import begin
from tests.server import Server
from tests.small_disk import small_disk
from tests.sockets import RemoteExchange

pytestmark = pytest.mark.usefixtures("quiet")
Make = Callable[..., Device]
EVERY_DOOR = pytest.mark.parametrize(
    "door", [DOORS[0], *(pytest.param(door, marks=pytest.mark.over_http) for door in DOORS[1:])], indirect=True
)


@pytest.fixture
def media(tuned: None, settings: Settings, tmp_path: Path) -> Path:
    """Where files are, of this test alone."""
    settings.MEDIA_ROOT = tmp_path / "media"
    return tmp_path / "media"


@pytest.fixture
async def laptop(media: Path, device: Make, alice: User, conversation: Conversation) -> Device:
    return await (await device(alice, conversation).connect()).synced()


@pytest.fixture
async def hand(laptop: Device) -> Hand:
    return Hand(laptop)


def files_of(device: Device, message: str) -> list[dict[str, Any]]:
    files: list[dict[str, Any]] = device.view.messages[message].get("files", [])
    return files


async def said(device: Device, message: str, text: str) -> None:
    await until(lambda: device.view.messages[message]["text"] == text)


# --- sending --------------------------------------------------------------------------------------------------------


@EVERY_DOOR
async def test_a_picture_is_the_same_on_every_device_and_after_a_fresh_start(
    laptop: Device, hand: Hand, device: Make, alice: User, conversation: Conversation
) -> None:
    phone = await (await device(alice, conversation).connect()).synced()
    part = await hand.part(picture(64, 48))
    assert part == {
        "type": "image",
        "file": part["file"],
        "name": "photo.png",
        "content_type": "image/png",
        "size": len(picture(64, 48)),
        "width": 64,
        "height": 48,
        "state": "done",
    }
    ack = await laptop.ask("/echo I see", files=[part["file"]])
    await laptop.ended(ack["run"])
    await phone.ended(ack["run"])
    assert files_of(phone, ack["message"]) == [part]
    fresh = await (await device(alice, conversation).connect()).synced()
    assert fresh.view.messages == phone.view.messages == laptop.view.messages
    replayed = device(alice, conversation)
    replayed.view.cursor = 0
    await (await replayed.connect()).synced()
    assert files_of(replayed, ack["message"]) == [part]


async def test_a_message_may_be_only_files_and_is_called_by_them(laptop: Device, hand: Hand) -> None:
    part = await hand.part(b"one, two", "figures.csv")
    ack = await laptop.ask("", files=[part["file"]])
    await laptop.ended(ack["run"])
    assert (part["type"], part["content_type"], laptop.view.title) == ("file", "text/plain", "figures.csv")
    said = laptop.view.text_of(ack["run"])
    assert "figures.csv: a text of 8 characters that begins “one, two”" in said


@pytest.mark.parametrize(
    "fields", [{}, {"files": []}, {"text": " \u200b", "files": []}], ids=["none", "empty", "unseen"]
)
async def test_a_message_of_nothing_is_refused(laptop: Device, fields: dict[str, Any]) -> None:
    said = await laptop.say("message.send", **fields)
    assert (said["type"], said["code"]) == ("nack", "invalid")


async def test_a_repeated_send_gives_its_first_ack(laptop: Device, hand: Hand) -> None:
    part = await hand.part(picture())
    signal = str(uuid.uuid4())
    first = await laptop.say("message.send", signal_id=signal, text="/echo Once", files=[part["file"]])
    again = await laptop.say("message.send", signal_id=signal, text="/echo Once", files=[part["file"]])
    assert again == {**first, "duplicate": True}


async def test_of_two_messages_with_one_file_one_is_sent(
    laptop: Device, hand: Hand, device: Make, alice: User, conversation: Conversation
) -> None:
    phone = await (await device(alice, conversation).connect()).synced()
    for _ in range(5):
        part = await hand.part(picture())
        said = await asyncio.gather(
            *(one.say("message.send", text="/echo Mine", files=[part["file"]]) for one in (laptop, phone))
        )
        assert sorted(one["type"] for one in said) == ["ack", "nack"]
        assert [one["code"] for one in said if one["type"] == "nack"] == ["stale"]
    assert await Message.objects.filter(role="user").acount() == 5


async def test_only_ones_own_files_of_this_conversation_can_be_sent(
    laptop: Device, hand: Hand, device: Make, alice: User, bob: User, conversation: Conversation
) -> None:
    other = await sync_to_async(Conversation.begin)(alice)
    elsewhere = await Hand(laptop, other).part(picture())
    bobs = await Hand(await guest(device, conversation, bob)).part(picture())
    for file in (elsewhere["file"], bobs["file"], str(uuid.uuid4())):
        said = await laptop.say("message.send", text="/echo No", files=[file])
        assert (said["type"], said["code"]) == ("nack", "unknown_file")
    assert not await Message.objects.filter(conversation=conversation).aexists()


@with_settings(CHAT_FILES_PER_MESSAGE=2)
async def test_a_message_has_so_many_files_at_most(laptop: Device, hand: Hand) -> None:
    assert next(frame for frame in laptop.frames if frame["type"] == "hello")["limits"]["files"] == 2
    three = [(await hand.part(picture()))["file"] for _ in range(3)]
    assert (await laptop.say("message.send", text="/echo", files=three))["code"] == "too_large"
    assert (await laptop.say("message.send", text="/echo Two", files=three[:2]))["type"] == "ack"


async def test_a_waiting_message_keeps_its_files_when_it_is_edited(laptop: Device, hand: Hand) -> None:
    await laptop.ask("/hang")
    part = await hand.part(picture())
    ack = await laptop.ask("/echo First", files=[part["file"]])
    for text in ("/echo Second", ""):
        assert (await laptop.say("queue.edit", message=ack["message"], text=text))["type"] == "ack"
        await said(laptop, ack["message"], text)
        assert files_of(laptop, ack["message"]) == [part]
    plain = await laptop.ask("/echo Words alone")
    assert (await laptop.say("queue.edit", message=plain["message"], text=" "))["code"] == "invalid"


async def test_a_file_that_is_taken_back_is_gone(laptop: Device, hand: Hand, media: Path) -> None:
    part = await hand.part(picture())
    assert len(kept(media)) == 1
    for _ in range(2):
        assert (await laptop.say("file.remove", file=part["file"]))["type"] == "ack"
    assert kept(media) == []
    assert not await File.objects.aexists()
    assert (await laptop.say("message.send", text="/echo", files=[part["file"]]))["code"] == "unknown_file"
    sent = await hand.part(picture())
    await laptop.ask("/echo Sent", files=[sent["file"]])
    assert (await laptop.say("file.remove", file=sent["file"]))["code"] == "stale"


# --- uploading ------------------------------------------------------------------------------------------------------


async def test_an_upload_that_is_repeated_gives_the_same_file(hand: Hand, media: Path) -> None:
    file = str(uuid.uuid4())
    first = await hand.upload(picture(), file=file)
    again = await hand.upload(picture(), file=file)
    assert again == (200, {**first[1], "duplicate": True})
    assert len(kept(media)) == 1


async def test_of_the_same_upload_at_the_same_time_one_file_is_kept(hand: Hand, media: Path) -> None:
    file = str(uuid.uuid4())
    said = await asyncio.gather(*(hand.upload(picture(), file=file) for _ in range(4)))
    assert [status for status, _ in said] == [200] * 4
    assert len({one["part"]["file"] for _, one in said}) == 1
    assert len(kept(media)) == 1


@pytest.mark.parametrize(
    ("data", "name", "status", "code"),
    [
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "photo.png", 415, "unsupported"),
        (b"<?xml version='1.0'?><svg/>", "drawing.svg", 415, "unsupported"),
        (b"\xef\xbb\xbf \n<!DOCTYPE html><p>Hello", "notes.txt", 415, "unsupported"),
        (b"<script>alert(1)</script>", "notes.txt", 415, "unsupported"),
        (b"MZ\x90\x00\x03\x00", "photo.jpg", 415, "unsupported"),
        (b"PK\x03\x04\x14\x00", "letter.docx", 415, "unsupported"),
        (picture(kind="TIFF"), "scan.png", 415, "unsupported"),
        (picture()[:-30], "cut.png", 415, "unsupported"),
        (b"%PDF-1.4\nnot really", "paper.pdf", 415, "unsupported"),
        (pdf(101), "book.pdf", 413, "too_large"),
        (bomb(30_000), "bomb.png", 413, "too_large"),
        (bomb(7_000), "large.png", 413, "too_large"),
        (b"", "nothing.txt", 400, "invalid"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else str(value),
)
async def test_what_is_not_taken_is_refused_by_what_it_is(
    hand: Hand, media: Path, data: bytes, name: str, status: int, code: str
) -> None:
    answered, said = await hand.upload(data, name)
    assert (answered, said["type"], said["code"]) == (status, "nack", code)
    assert said["message"]
    if status == 415 and "cut" not in name and "paper" not in name:
        assert "PNG images, JPEG images, GIF images, WebP images, PDF and plain text" in said["message"]
    assert kept(media) == []
    assert not await File.objects.aexists()


@pytest.mark.parametrize(
    ("data", "name", "kind"),
    [
        (picture(kind="JPEG"), "notes.txt", "image/jpeg"),
        (picture(kind="GIF"), "x", "image/gif"),
        (picture(kind="WEBP"), "x.html", "image/webp"),
        (pdf(3), "photo.png", "application/pdf"),
        ("Grüße, 世界\n".encode(), "photo.png", "text/plain"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else str(value),
)
async def test_a_file_is_what_its_content_is_and_not_what_it_is_called(
    hand: Hand, data: bytes, name: str, kind: str
) -> None:
    part = await hand.part(data, name)
    assert (part["content_type"], part["name"]) == (kind, name)
    status, headers, body = await hand.get(part["file"])
    assert (status, headers["content-type"].partition(";")[0], body) == (200, kind, data)


@with_settings(CHAT_FILE_TYPES=["image/png"])
async def test_the_operator_says_which_types_are_taken(hand: Hand) -> None:
    await hand.part(picture())
    status, said = await hand.upload(pdf())
    assert (status, said["message"]) == (415, "This type of file is not taken. What is: PNG images.")


@with_settings(CHAT_FILE_BYTES=2000)
async def test_a_file_that_is_too_large_is_refused_whatever_is_said_of_its_length(hand: Hand, media: Path) -> None:
    assert (await hand.upload(b"x" * 2000, "notes.txt"))[0] == 200
    for size in (2001, 30_000):
        status, said = await hand.upload(b"x" * size, "notes.txt")
        assert (status, said["code"], said["message"]) == (
            413,
            "too_large",
            "This file is too large: it may have 2,000 bytes.",
        )
    assert len(kept(media)) == 1


@pytest.mark.parametrize("body", [b"", b"nothing like a form", form("a.txt", b"x", field="other")])
async def test_a_body_that_is_no_form_with_a_file_is_refused(hand: Hand, body: bytes) -> None:
    """By us: under daphne twisted would look into it first, which for a large file holds up all others for a second."""
    status, said = await hand.upload(b"", body=body)
    assert (status, said["code"]) == (400, "invalid")


@pytest.mark.parametrize("file", ["", "no-uuid"])
async def test_an_upload_says_how_it_is_called(hand: Hand, laptop: Device, file: str) -> None:
    path = f"/api/conversations/{hand.conversation}/files"
    asked = exchange("POST", path, {"device": laptop.id, "id": file}, hand.known, form("a", b"x"))
    assert b'"invalid"' in await asked.whole()


@with_settings(CHAT_FILES_UNSENT=2)
async def test_who_keeps_uploading_has_to_send_first(laptop: Device, hand: Hand, media: Path) -> None:
    two = [(await hand.part(picture()))["file"] for _ in range(2)]
    status, said = await hand.upload(picture())
    assert (status, said["code"], said["retryable"]) == (409, "busy", True)
    await laptop.ask("/echo Sent", files=two)
    statuses = [status for status, _ in await asyncio.gather(*(hand.upload(picture()) for _ in range(5)))]
    assert sorted(statuses) == [200, 200, 409, 409, 409]
    assert len(kept(media)) == 4


@with_settings(CHAT_SIGNALS_PER_SECOND=0.4)
async def test_uploads_have_the_allowance_of_signals(hand: Hand) -> None:
    statuses = [(await hand.upload(picture()))[0] for _ in range(6)]
    assert statuses[:2] == [200, 200]
    assert 429 in statuses


async def test_a_page_of_another_site_uploads_nothing(hand: Hand) -> None:
    hand.known["origin"] = "https://elsewhere.example"
    status, said = await hand.upload(picture())
    assert (status, said["code"]) == (403, "csrf")


async def test_only_who_may_speak_may_upload(
    hand: Hand, device: Make, alice: User, bob: User, charlie: User, conversation: Conversation
) -> None:
    viewer = Hand(await guest(device, conversation, bob, "viewer"))
    status, said = await viewer.upload(picture())
    assert (status, said["code"]) == (403, "forbidden")
    stranger = await sync_to_async(Conversation.begin)(charlie)
    theirs = Hand(await (await device(charlie, stranger).connect()).synced(), conversation)
    status, said = await theirs.upload(picture())
    assert (status, said["type"]) == (403, "bye")
    hand.known["cookie"] = "sessionid=nobody"
    status, said = await hand.upload(picture())
    assert (status, said["code"]) == (401, "signed_out")
    assert not await File.objects.aexists()


async def test_the_id_of_somebody_elses_file_is_taken(
    hand: Hand, device: Make, alice: User, bob: User, conversation: Conversation
) -> None:
    part = await hand.part(picture())
    bobs = Hand(await guest(device, conversation, bob))
    status, said = await bobs.upload(picture(), file=part["file"])
    assert (status, said["code"]) == (400, "invalid")
    assert "part" not in said


@pytest.mark.sqlite
async def test_whoever_leaves_while_a_file_is_kept_finds_it_whole(hand: Hand, media: Path) -> None:
    file = str(uuid.uuid4())
    with write_lock():
        asked = hand.ask(picture(), file=file)
        await until(lambda: len(kept(media)) == 1)
        asked.task.cancel()
        await asyncio.wait([asked.task])
    async with asyncio.timeout(10):
        while not await File.objects.filter(pk=file).aexists():  # noqa: ASYNC110 - another process may write it
            await asyncio.sleep(0.01)
    status, said = await hand.upload(picture(), file=file)
    assert (status, said.get("duplicate")) == (200, True)
    assert (await hand.get(file))[2] == picture()


async def test_a_storage_that_is_not_there_costs_a_try_and_leaves_no_row(
    hand: Hand, media: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.to_thread(media.write_text, "a file where a directory should be")
    status, said = await hand.upload(picture())
    assert (status, said["code"], said["retryable"]) == (503, "storage", True)
    assert "could not be stored" in caplog.text
    assert not await File.objects.aexists()
    caplog.clear()
    await asyncio.to_thread(media.unlink)
    await hand.part(picture())


@pytest.mark.process  # as those that mount something
async def test_a_disk_that_is_full_costs_a_try_and_keeps_nothing_of_the_file(
    hand: Hand, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        settings.MEDIA_ROOT = disk.folder / "media"
        await hand.part(b"x" * 1_000_000, "first.txt")
        await asyncio.to_thread(disk.fill)
        status, said = await hand.upload(b"y" * 1_000_000, "second.txt")
        assert (status, said["code"]) == (503, "storage")
        assert len(kept(disk.folder / "media")) == 1
        assert await File.objects.acount() == 1
        assert "No space left" in caplog.text
        caplog.clear()
        await asyncio.to_thread(disk.free)
        await hand.part(b"y" * 1_000_000, "second.txt")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\temp\\a.txt", "a.txt"),
        ("photo\u202egpj.exe", "photo gpj.exe"),
        ("a\r\nb.png", "a b.png"),
        ("…", "…"),
        ("...", "file"),
        ("", "file"),
        ("x" * 300 + ".jpeg", "x" * 114 + "….jpeg"),
    ],
)
def test_a_name_shows_as_what_it_is(name: str, shown: str) -> None:
    assert cleaned(name) == shown


# --- reading --------------------------------------------------------------------------------------------------------


async def test_a_file_does_nothing_and_is_asked_for_each_time(hand: Hand) -> None:
    image, text, paper = await hand.part(picture()), await hand.part(b"Hi", "n.txt"), await hand.part(pdf(), "p.pdf")
    for part, disposition in (
        (image, 'inline; filename="photo.png"'),
        (text, 'inline; filename="n.txt"'),
        (paper, 'attachment; filename="p.pdf"'),
    ):
        status, headers, _ = await hand.get(part["file"])
        assert status == 200
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"] == "default-src 'none'; sandbox; frame-ancestors 'none'"
        assert headers["content-disposition"] == disposition
        assert set(headers["cache-control"].split(", ")) == {"private", "no-cache"}
        status, _, body = await hand.get(part["file"], **{"if-none-match": headers["etag"]})
        assert (status, body) == (304, b"")


async def test_who_is_not_in_the_conversation_gets_no_file_and_who_was_removed_no_longer(
    laptop: Device, hand: Hand, device: Make, alice: User, bob: User, charlie: User, conversation: Conversation
) -> None:
    bobs = Hand(await guest(device, conversation, bob))
    stranger = await sync_to_async(Conversation.begin)(charlie)
    theirs = Hand(await (await device(charlie, stranger).connect()).synced(), conversation)
    part = await hand.part(picture())
    assert (await hand.get(part["file"]))[0] == 200
    assert (await bobs.get(part["file"]))[0] == 404, "it is not sent yet"
    await laptop.ask("/echo Look", files=[part["file"]])
    status, headers, _ = await bobs.get(part["file"])
    assert status == 200
    assert (await theirs.get(part["file"]))[0] == 404
    assert (await Hand(laptop, stranger).get(part["file"]))[0] == 404, "nor under another address"
    by = await Participant.objects.select_related("user", "conversation").aget(conversation=conversation, user=alice)
    await sync_to_async(conversation.remove)(by=by, user=bob)
    assert (await bobs.get(part["file"], **{"if-none-match": headers["etag"]}))[0] == 404
    bobs.known["cookie"] = "sessionid=nobody"
    assert (await bobs.get(part["file"]))[0] == 404


async def test_a_large_photo_is_shown_smaller_upright_and_without_where_it_was_taken(hand: Hand) -> None:
    tags = Image.Exif()
    tags[0x0112], tags[0x010F] = 6, "A camera"  # on its side
    data = picture(2000, 1000, "JPEG", exif=tags)
    part = await hand.part(data)
    assert (part["width"], part["height"]) == (1000, 2000)
    _, headers, body = await hand.get(part["file"], "view/")
    shown = Image.open(io.BytesIO(body))
    assert (headers["content-type"], shown.size, dict(shown.getexif())) == ("image/jpeg", (784, 1568), {})
    assert (await hand.get(part["file"]))[2] == data
    small = await hand.part(picture(100, 50, "JPEG", exif=tags))
    assert (small["width"], small["height"]) == (50, 100)
    assert Image.open(io.BytesIO((await hand.get(small["file"], "view/"))[2])).size == (50, 100)
    clear = await hand.part(picture(2000, 10, color=(1, 2, 3, 4)))
    assert (await hand.get(clear["file"], "view/"))[1]["content-type"] == "image/webp"


# --- the model ------------------------------------------------------------------------------------------------------


async def test_the_model_is_given_the_files_and_told_of_what_is_gone(laptop: Device, hand: Hand, media: Path) -> None:
    image, text = await hand.part(picture(), "cat.png"), await hand.part(b"Meow", "said.txt")
    first = await laptop.ask("", files=[image["file"], text["file"]])
    await laptop.ended(first["run"])
    said = laptop.view.text_of(first["run"])
    assert f"- cat.png: image/png, {len(picture()):,} bytes" in said
    assert "- said.txt: a text of 4 characters that begins “Meow”" in said
    for path in kept(media):
        path.unlink()
    again = await laptop.ask("/echo Still here")
    await laptop.ended(again["run"])
    assert laptop.view.text_of(again["run"]) == "Still here"
    assert (await hand.get(image["file"]))[0] == 404


async def test_a_storage_that_cannot_be_read_ends_the_run_and_it_can_be_tried_again(
    laptop: Device, hand: Hand, media: Path, caplog: pytest.LogCaptureFixture
) -> None:
    part = await hand.part(picture(), "cat.png")
    [path] = kept(media)
    path.rename(path.with_suffix(".away"))
    path.mkdir()  # what is read is a directory
    ack = await laptop.ask("", files=[part["file"]])
    ended = await laptop.ended(ack["run"])
    assert (ended["state"], ended["error"]["code"]) == ("failed", "storage")
    assert "a file could not be read" in caplog.text
    caplog.clear()
    path.rmdir()
    path.with_suffix(".away").rename(path)
    retried = await laptop.say("run.retry", run=ack["run"])
    await laptop.ended(retried["run"])
    assert "cat.png: image/png" in laptop.view.text_of(retried["run"])


async def test_the_prompt_itself_only_names_the_files(laptop: Device, hand: Hand) -> None:
    part = await hand.part(picture(), "cat.png")
    ack = await laptop.ask("/echo Hi", files=[part["file"]])
    await laptop.ended(ack["run"])
    run = await Run.objects.select_related("prompt", "answer").aget(pk=ack["run"])
    [asked, *_] = await sync_to_async(prompt_of)(run)
    assert asked["content"] == [
        {"type": "reference", "file": part["file"], "text": "image: cat.png"},
        {"type": "text", "text": "/echo Hi"},
    ]


# --- going ----------------------------------------------------------------------------------------------------------


async def test_files_go_with_their_conversation(
    laptop: Device, hand: Hand, media: Path, conversation: Conversation
) -> None:
    sent, unsent = await hand.part(picture(2000, 2000)), await hand.part(picture())
    ack = await laptop.ask("/echo Look", files=[sent["file"]])
    await laptop.ended(ack["run"])
    assert len(kept(media)) == 3
    await sync_to_async(conversation.erase)()
    assert kept(media) == []
    assert not await File.objects.filter(pk__in=[sent["file"], unsent["file"]]).aexists()


async def test_what_the_storage_does_not_let_go_is_removed_later(
    hand: Hand, media: Path, conversation: Conversation, caplog: pytest.LogCaptureFixture
) -> None:
    await hand.part(picture())
    [path] = kept(media)
    path.unlink()
    path.mkdir()  # it is not a file, so it is not deleted as one
    (path / "x").touch()
    await sync_to_async(conversation.erase)()
    assert "a file could not be removed" in caplog.text
    assert await sync_to_async(File.sweep)() == 0
    assert await File.objects.acount() == 1
    (path / "x").unlink()
    path.rmdir()
    assert await sync_to_async(File.sweep)() == 1
    assert not await File.objects.aexists()


async def test_what_was_not_sent_for_a_day_is_removed(laptop: Device, hand: Hand, media: Path) -> None:
    old, new, sent = [await hand.part(picture()) for _ in range(3)]
    await laptop.ask("/echo Sent", files=[sent["file"]])
    long_ago = timezone.now() - timedelta(hours=25)
    await File.objects.filter(pk__in=[old["file"], sent["file"]]).aupdate(created_at=long_ago)
    assert await sync_to_async(File.sweep)() == 1
    left = {str(pk) async for pk in File.objects.values_list("pk", flat=True)}
    assert left == {new["file"], sent["file"]}
    assert len(kept(media)) == 2


async def test_the_files_of_a_message_that_was_taken_back_are_hidden_and_then_go(
    laptop: Device, hand: Hand, media: Path
) -> None:
    await laptop.ask("/hang")
    part = await hand.part(picture())
    ack = await laptop.ask("/echo Never mind", files=[part["file"]])
    assert (await laptop.say("queue.remove", message=ack["message"]))["type"] == "ack"
    assert (await hand.get(part["file"]))[0] == 404
    assert await sync_to_async(File.sweep)() == 0
    await Message.objects.filter(pk=ack["message"]).aupdate(removed_at=timezone.now() - timedelta(hours=25))
    assert await sync_to_async(File.sweep)() == 1
    assert kept(media) == []


async def test_what_a_user_who_is_deleted_has_sent_stays(
    laptop: Device, device: Make, alice: User, bob: User, conversation: Conversation
) -> None:
    his = await guest(device, conversation, bob)
    part = await Hand(his).part(picture())
    ack = await his.ask("/echo From Bob", files=[part["file"]])
    await laptop.ended(ack["run"])
    await sync_to_async(bob.delete)()
    assert (await Hand(laptop).get(part["file"]))[0] == 200


# --- the real thing -------------------------------------------------------------------------------------------------


@pytest.fixture
async def service(tuned: None, settings: Settings) -> AsyncIterator[MessagesServer]:
    """The Messages API of this test, before the host starts."""
    async with MessagesServer() as server:
        settings.ANTHROPIC_BASE_URL, settings.ANTHROPIC_API_KEY = server.url, "sk-ant-of-a-test"
        settings.CHAT_PROVIDER, settings.CHAT_TOOLS = "claude", []
        yield server


async def test_claude_is_given_each_kind_of_file_and_finds_its_cache_again(
    service: MessagesServer, laptop: Device, hand: Hand
) -> None:
    given = [(picture(), "a.png"), (picture(2000, 1500), "b.jpg"), (pdf(2), "c.pdf"), (b"Notes", "d.txt")]
    files = [(await hand.part(data, name))["file"] for data, name in given]
    for ack in [await laptop.ask("What is this?", files=files), await laptop.ask("And now?")]:
        assert (await laptop.ended(ack["run"]))["state"] == "completed"
    first, second = (request.body["messages"] for request in service.requests)
    kinds = [block["type"] for block in first[0]["content"]]
    assert kinds == ["text", "image", "text", "image", "text", "document", "text", "document", "text"]
    sources = [block["source"] for block in first[0]["content"] if "source" in block]
    assert [source["media_type"] for source in sources] == ["image/png", "image/jpeg", "application/pdf", "text/plain"]
    assert [base64.b64decode(sources[0]["data"]), sources[3]["data"]] == [picture(), "Notes"]
    told = [[{**block, "cache_control": None} for block in message["content"]] for message in (first[0], second[0])]
    assert told[0] == told[1]


# --- before the body is read ----------------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.parametrize("kind", ["daphne", "uvicorn"])
async def test_what_is_too_large_is_refused_before_it_has_come(tmp_path: Path, kind: str) -> None:
    async with Server(tmp_path / "site", kind=kind) as server:
        conversation, session = await begin(server)
        before = server.resident()
        path = f"/api/conversations/{conversation}/files?device={uuid.uuid4()}&id={uuid.uuid4()}"
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nOrigin: {server.url}\r\n"
        head += f"Cookie: sessionid={session}\r\nContent-Type: {FORM_TYPE}\r\n"
        for body in ("Content-Length: 4000000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write((head + body).encode())
            piece = b"%x\r\n%s\r\n" % (65536, bytes(65536)) if "chunked" in body else bytes(65536)
            sent, answer = 0, b""
            async with asyncio.timeout(30):
                while not answer and sent < 64_000_000:
                    writer.write(piece)
                    sent += len(piece)
                    with contextlib.suppress(TimeoutError, ConnectionError):
                        async with asyncio.timeout(0.01):
                            answer = await reader.read(1000)
            writer.transport.abort()
            assert answer.startswith(b"HTTP/1.1 413 "), answer
            assert sent < 64_000_000
        assert server.resident() - before < 100_000_000
        said = exchange_at(server, "POST", path, session, form("a.txt", b"Hello"))
        assert b'"ack"' in await said.whole()
        assert said.status == 200


def exchange_at(server: Server, method: str, path: str, session: str, body: bytes) -> RemoteExchange:
    address, _, query = path.partition("?")
    sent = {"cookie": f"sessionid={session}", "origin": server.url, "content-type": FORM_TYPE}
    return RemoteExchange(server.url, None, method, address, dict(parse_qsl(query)), sent, body)
