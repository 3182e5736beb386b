"""The HTML shape: event → the same partial templates the page uses, rendered once per process.

How fragments find their place, for the browser client (`static/chat/frames.js`): an element with
`data-append="ID"` adds its text to element ID at code point `data-offset`; one with `data-into="ID"` replaces the
element that has its own id, or goes to the end of element ID if there is none; with `data-keep` as well, one that
is there already stays (a turn must not lose its answers); any other replaces the element with its id. What has no
place on the page (an older turn that is not loaded) is left out. Attributes stay on the page: a reload has them too.
"""

from collections.abc import Callable, Sequence
from uuid import UUID

from django.template.loader import render_to_string

from chat.log import Logged
from chat.markup import exactly
from chat.models import Conversation, Kind, Message, Run, Spending, Summary
from chat.models.event import TEXT_KINDS
from chat.models.parts import Part, calls_in
from chat.models.state import LIVE
from chat.transcript import Answer, Transcript, people_of, queue_of, read_transcript, steers_of


def delta(event: Logged) -> str:
    """Some text of an answer being written. The one fragment made for every token: no template, no query."""
    text = exactly(event.payload["text"])
    place = f"text-{event.message}-{event.payload['part']}"
    return f'<span data-append="{place}" data-offset="{event.payload["offset"]}">{text}</span>'


def render(conversation: UUID, events: Sequence[Logged]) -> str:
    """Everything these events change on a page, each thing once. Queries: one or two per kind of thing.

    Apart from text, what is rendered is the present state, which may be ahead of the events: the later events
    then render the same again.
    """
    found = Conversation.objects.filter(pk=conversation).first()
    if found is None:
        return ""  # deleted meanwhile; its devices are being sent away
    ended = {event.message for event in events if event.kind == Kind.RUN_ENDED}
    html: list[str] = []
    panels: dict[str, Callable[[], str]] = {}
    for event in events:
        if event.kind in TEXT_KINDS:
            if event.message not in ended:
                html.append(delta(event))
        elif event.kind == Kind.MESSAGE_CREATED and event.payload["place"] is None:
            panels["queue"] = lambda: queue(found)
        else:
            if event.kind in (Kind.RUN_QUEUED, Kind.RUN_STARTED, Kind.RUN_ENDED):
                panels["live"] = lambda: live(conversation)
            if event.kind in (Kind.RUN_WAITING, Kind.RUN_ENDED):
                panels["spent"] = lambda: spent(conversation)
            html.append(_changed(found, event, panels))
    html.extend(panel() for panel in panels.values())
    return "".join(html)


def _changed(conversation: Conversation, event: Logged, panels: dict[str, Callable[[], str]]) -> str:
    match event.kind:
        case Kind.MESSAGE_CREATED:
            return prompt(event.message)
        case Kind.RUN_QUEUED:
            if event.payload["waiting"]:
                panels["queue"] = lambda: queue(conversation)
                return ""
            return answer(event.run)
        case Kind.RUN_STARTED:
            panels["queue"] = lambda: queue(conversation)
            return prompt(UUID(event.payload["prompt"])) + answer(event.run)
        case Kind.PART_STARTED | Kind.PART_ENDED | Kind.PART_SHORTENED | Kind.CITATION_ADDED:
            return part(event)
        case Kind.TOOL_OFFERED | Kind.TOOL_CALLED | Kind.TOOL_RESULT | Kind.APPROVAL_REQUESTED | Kind.APPROVAL_DECIDED:
            return part(event)
        case Kind.RUN_STEERED | Kind.STEER_CONSUMED | Kind.STEER_MISSED | Kind.STEER_SENT:
            return (part(event) if "part" in event.payload else "") + steers(event.run)
        case Kind.RUN_CANCELLING | Kind.RUN_WAITING:
            return run_bar(event.run)
        case Kind.RUN_ENDED:
            panels["queue"] = lambda: queue(conversation)
            if event.payload["place"] is None:
                return ""
            return prompt(UUID(event.payload["prompt"])) + answer(event.run)
        case Kind.MESSAGE_EDITED | Kind.MESSAGE_REMOVED | Kind.QUEUE_CHANGED:
            panels["queue"] = lambda: queue(conversation)
        case Kind.PARTICIPANT_JOINED | Kind.PARTICIPANT_CHANGED | Kind.PARTICIPANT_LEFT:
            panels["people"] = lambda: people(conversation)
        case Kind.CONVERSATION_RENAMED:
            panels["title"] = lambda: render_to_string("chat/_title.html", {"conversation": conversation})
        case Kind.CONVERSATION_SUMMARISED:
            return summary(UUID(event.payload["summary"]))
    return ""


def prompt(message: UUID | None) -> str:
    """A turn's prompt, and the turn around it if the page has none yet; nothing for one that was removed."""
    found = Message.objects.filter(pk__in=[message], removed_at=None).select_related("author", "device").first()
    if found is None or found.place is None:
        return ""
    return render_to_string("chat/_turn_start.html", {"prompt": found})


def answer(run: UUID | None) -> str:
    """One run's article. Of the part that is open there is no text: its deltas follow."""
    found = Run.objects.filter(pk__in=[run]).select_related("answer", "prompt").first()
    return "" if found is None else render_to_string("chat/_answer.html", {"answer": _answer_now(found)})


def part(event: Logged) -> str:
    """One part of an answer. A call's result stands with the call, which is then drawn anew."""
    found = Run.objects.filter(pk__in=[event.run]).select_related("answer").first()
    if found is None or found.answer is None:
        return ""
    now = _answer_now(found)
    here = event.payload["part"]
    numbers = [number for number, one in calls_in(now.parts) if one["call"] == event.payload.get("call")] or [here]
    return "".join(
        render_to_string("chat/_part.html", {"answer": now, "number": number, "part": now.parts[number]})
        for number in numbers
    )


def _answer_now(run: Run) -> Answer:
    parts = [without_open_text(one) for one in run.answer.parts] if run.answer else []
    return Answer(run, run.answer, parts, steers_of([run]).get(run.pk, []))


def steers(run: UUID | None) -> str:
    """What was added to a run and is no part of its answer yet."""
    found = Run.objects.filter(pk__in=[run]).first()
    if found is None:
        return ""
    return render_to_string("chat/_steers.html", {"run": found, "steers": steers_of([found]).get(found.pk, [])})


def summary(summary: UUID) -> str:
    """That the model is told something in place of what stands above; the text is loaded by who wants it."""
    found = Summary.objects.filter(pk=summary).first()
    return render_to_string("chat/_summary.html", {"summary": found}) if found is not None else ""


def without_open_text(one: Part) -> Part:
    """As it is stored, that of the part which is open has none."""
    return {"text": "", **one}


def run_bar(run: UUID | None) -> str:
    """The state and the controls of a live run; nothing for one that has ended meanwhile."""
    found = Run.objects.filter(pk__in=[run]).first()
    if found is None or not found.is_live:
        return ""
    return render_to_string("chat/_run_bar.html", {"run": found})


def queue(conversation: Conversation) -> str:
    """The waiting messages."""
    return render_to_string("chat/_queue.html", {"queue": queue_of(conversation)})


def live(conversation: UUID) -> str:
    """What runs, also in turns that a page has not loaded."""
    return render_to_string("chat/_live.html", {"live": live_of(conversation)})


def live_of(conversation: UUID) -> list[UUID]:
    """The runs of a conversation that are live and have a place in it: all but those of waiting messages."""
    found = Run.objects.filter(conversation_id=conversation, state__in=LIVE, prompt__place__isnull=False)
    return list(found.order_by("position").values_list("pk", flat=True))


def people(conversation: Conversation) -> str:
    """Who is in the conversation."""
    return render_to_string("chat/_people.html", {"people": people_of(conversation.pk), "conversation": conversation})


def spent(conversation: UUID) -> str:
    """What its answers have used."""
    return render_to_string("chat/_spent.html", {"spent": Spending.total(conversation)})


def snapshot(conversation: UUID) -> tuple[int, str]:
    """The serial and the whole changing part of a page, for a page that has lost the thread."""
    transcript = read_transcript(conversation)
    return transcript.serial, body(transcript)


def body(transcript: Transcript) -> str:
    """The whole changing part of a page: title, people, what was used, transcript, queue, what runs."""
    found = transcript.conversation
    return "".join(
        [
            render_to_string("chat/_title.html", {"conversation": found}),
            people(found),
            spent(found.pk),
            render_to_string("chat/_transcript.html", {"transcript": transcript, "conversation": found}),
            queue(found),
            live(found.pk),
        ]
    )
