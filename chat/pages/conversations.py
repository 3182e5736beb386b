"""What a person sees of conversations on first load, and the partials htmx asks for.

Reading is permitted by how a conversation is loaded: through the reader's participant, else it does not exist.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any
from uuid import UUID

from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.db.models import Exists, OuterRef, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import cache_control
from django.views.decorators.http import require_GET, require_POST

from chat.approval import visible
from chat.errors import Code, Refused
from chat.fragments import live_of
from chat.models import Conversation, Participant, Role, Run, Spending
from chat.models.budget import accounts
from chat.models.parts import Part
from chat.models.state import State
from chat.transcript import answer_of, people_of, read_transcript
from chat.wire import read_serial

PAGE_CONVERSATIONS = 30

View = Callable[..., HttpResponse]
# The back button must show the newest state, and a shared machine nothing after the sign-out.
never_kept = cache_control(private=True, no_store=True)


def page(view: View) -> View:
    """For signed-in people."""
    return never_kept(login_required(view))


def partial(view: View) -> View:
    """A piece of a page: whoever is signed out gets nothing, rather than a sign-in page inside the page."""

    @never_kept
    @wraps(view)
    def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not request.user.is_authenticated:
            return HttpResponse(status=401)
        return view(request, *args, **kwargs)

    return checked


# --- the list -----------------------------------------------------------------------------------------------


@require_GET
@page
def listing(request: HttpRequest) -> HttpResponse:
    """Everything this person takes part in, newest first. htmx gets the rows alone, as they are now."""
    found = Paginator(rows_of(request.user), PAGE_CONVERSATIONS).get_page(request.GET.get("page"))
    template = "chat/_conversations.html" if _is_htmx(request) else "chat/conversations.html"
    return render(request, template, {"page": found, "rows": _judged(found.object_list), "prefix": "row"})


@require_GET
@partial
def sidebar(request: HttpRequest) -> HttpResponse:
    """The newest conversations beside an open one."""
    try:
        current = UUID(request.GET.get("current", ""))
    except ValueError:
        current = None
    return render(request, "chat/_conversations.html", _sidebar(request.user, current))


def rows_of(user: Any) -> QuerySet[Participant]:
    """This person's conversations with what runs in each, in one query."""
    runs = Run.objects.filter(conversation=OuterRef("conversation"))
    return (
        Participant.objects.filter(user=user)
        .select_related("conversation")
        .annotate(
            answering=Exists(runs.filter(state=State.RUNNING)),
            asking=Exists(runs.filter(state=State.WAITING)),
            waiting=Exists(runs.filter(state=State.QUEUED)),
        )
        .order_by("-conversation__updated_at", "pk")
    )


def _judged(rows: Any) -> list[Participant]:
    judged = list(rows)
    for row in judged:
        row.is_unread = row.read_serial < row.conversation.head
    return judged


def _sidebar(user: Any, current: UUID | None) -> dict[str, Any]:
    return {"rows": _judged(rows_of(user)[:PAGE_CONVERSATIONS]), "current": current, "prefix": "beside"}


@require_POST
@page
def begin(request: HttpRequest) -> HttpResponse:
    """A new conversation of this person's."""
    return redirect("conversation", Conversation.begin(request.user).pk)


# --- one conversation ---------------------------------------------------------------------------------------


def _participant(request: HttpRequest, pk: UUID) -> Participant:
    return get_object_or_404(
        Participant.objects.select_related("conversation", "user"), conversation=pk, user=request.user
    )


@require_GET
@page
def conversation(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The newest page of it. The browser goes on from the serial this stands at."""
    participant = _participant(request, pk)
    transcript = read_transcript(pk)
    return render(
        request,
        "chat/conversation.html",
        {
            "participant": participant,
            "conversation": transcript.conversation,
            "transcript": transcript,
            "queue": transcript.queue,
            "live": live_of(pk),
            "people": people_of(pk),
            "spent": Spending.total(pk),
            "accounts": accounts([participant.user_id], [pk]).values(),
            **_sidebar(request.user, pk),
        },
    )


@require_GET
@partial
def older(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The page of turns before a place."""
    participant = _participant(request, pk)
    before = read_serial(request.GET.get("before", ""))
    if before is None:
        raise Http404
    transcript = read_transcript(pk, before=before)
    return render(
        request,
        "chat/_turns.html",
        {"conversation": participant.conversation, "older": transcript.older, "turns": transcript.turns},
    )


@require_GET
@page
def answer_text(request: HttpRequest, pk: UUID, run: UUID) -> HttpResponse:
    """An ended answer as it was written, for what is too long to be shown on the page."""
    found = get_object_or_404(_participant(request, pk).conversation.runs.select_related("answer"), pk=run)
    if found.answer is None or found.is_live:
        raise Http404
    return HttpResponse(found.answer.text, content_type="text/plain; charset=utf-8")


@require_GET
@partial
def part_text(request: HttpRequest, pk: UUID, message: UUID, number: int) -> HttpResponse:
    """All of one part: what was thought, for whoever opens it; arguments and results that are too long for the page.

    `X-Part-State` says whether there is more to come.
    """
    found = _participant(request, pk).conversation
    run = get_object_or_404(found.runs.select_related("answer"), answer=message)
    parts = answer_of(run, found.head).parts
    if number >= len(parts):
        raise Http404
    headers = {"X-Part-State": parts[number]["state"]}
    return HttpResponse(_whole(parts[number]), content_type="text/plain; charset=utf-8", headers=headers)


def _whole(part: Part) -> str:
    """As a page shows the beginning of it."""
    match part["type"]:
        case "reasoning" | "tool_result":
            return str(part["text"])
        case "tool_use":
            return str(part["approval"]["shown"]) if "approval" in part else visible(part["text"])
    raise Http404


@require_GET
@partial
def summary_text(request: HttpRequest, pk: UUID, summary: UUID) -> HttpResponse:
    """What the model was told in place of earlier turns, for whoever opens it."""
    found = get_object_or_404(_participant(request, pk).conversation.summaries, pk=summary)
    return HttpResponse(found.text, content_type="text/plain; charset=utf-8")


@require_GET
@partial
def waiting_text(request: HttpRequest, pk: UUID, message: UUID) -> HttpResponse:
    """All of a waiting message, for whoever edits it: the queue shows the beginning of a long one."""
    waiting = _participant(request, pk).conversation.messages.filter(place=None, removed_at=None)
    return HttpResponse(get_object_or_404(waiting, pk=message).text, content_type="text/plain; charset=utf-8")


# --- people -------------------------------------------------------------------------------------------------


@require_POST
@partial
def add_person(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Let somebody in by name. Others hear of it through the log."""
    participant = _participant(request, pk)
    name = request.POST.get("user", "").strip()

    def add() -> None:
        participant.may_manage()
        participant.conversation.add(by=participant, user=_user(username=name), role=_role(request))

    return _people(request, participant, add)


@require_POST
@partial
def change_person(request: HttpRequest, pk: UUID, user: int) -> HttpResponse:
    """Change what somebody in the conversation may do."""
    participant = _participant(request, pk)

    def change() -> None:
        known = _user(pk=user, participations__conversation=pk)
        participant.conversation.add(by=participant, user=known, role=_role(request))

    return _people(request, participant, change)


@require_POST
@partial
def remove_person(request: HttpRequest, pk: UUID, user: int) -> HttpResponse:
    """Send somebody away. Their devices stop hearing at once."""
    participant = _participant(request, pk)

    def remove() -> None:
        participant.may_manage()
        participant.conversation.remove(by=participant, user=_user(pk=user, participations__conversation=pk))

    return _people(request, participant, remove)


@require_POST
@page
def leave(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Go. The owner cannot."""
    participant = _participant(request, pk)
    try:
        participant.conversation.remove(by=participant, user=request.user)
    except Refused:
        return redirect("conversation", pk)
    return redirect("conversations")


def _people(request: HttpRequest, participant: Participant, act: Callable[[], None]) -> HttpResponse:
    """Do it, and show who is here now, with what was wrong with it if something was."""
    error = ""
    try:
        act()
    except Refused as refusal:
        error = refusal.message
    found = participant.conversation
    context = {"people": people_of(found.pk), "conversation": found, "error": error}
    return render(request, "chat/_people.html", context, status=422 if error else 200)


def _user(**wanted: Any) -> Any:
    found = get_user_model().objects.filter(is_active=True, **wanted).first()
    if found is None:
        raise Refused(Code.UNKNOWN_USER, "There is nobody of that name.")
    return found


def _role(request: HttpRequest) -> str:
    role = request.POST.get("role", "")
    if role not in (Role.EDITOR, Role.VIEWER):
        raise Refused(Code.INVALID, "Choose editor or viewer.")
    return role


def _is_htmx(request: HttpRequest) -> bool:
    return bool(request.htmx)  # type: ignore[attr-defined]
