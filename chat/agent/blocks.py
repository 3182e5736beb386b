"""Stored parts as content blocks of the Messages API: what an answer's steps said, called and were answered.

Pure and forgiving: a part that was cut, doubled, misplaced or is unknown never makes a block that would be refused.
What a result says if nobody stored one is said here too, in words: silence about a call would be taken for success.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chat.models.parts import RESULTS

Part = Mapping[str, Any]
Block = dict[str, Any]

_REFUSED = re.compile(r"[^a-zA-Z0-9_-]")  # in the id of a call and in the name of a tool
_THINKING = ("thinking", "redacted_thinking")
_OWN_PARTS = {"text", *_THINKING, "tool_use", "tool_result"}  # have parts of their own: no provider's block is one
_CALLS = ("server_tool_use", "mcp_tool_use")
REFERENCE = "reference"  # to a stored file: no provider is ever given one

TOLD = {
    "done": "It is done and returned nothing.",
    "error": "It failed and did not say why.",
    **RESULTS,
    "stopped": "Not run: the user stopped the answer first.",
    "cut": "Not run: the answer was cut off before it could.",
}
_SPEAKS_FOR_ITSELF = ("done", "error", "expired")  # its own words are all there is to say


@dataclass(slots=True)
class Step:
    """One call of the model: what it said, then the tools it called and, call by call, their results."""

    added: list[Block] = field(default_factory=list)  # what people said just before it
    said: list[Block] = field(default_factory=list)
    calls: list[Block] = field(default_factory=list)
    results: list[Block] = field(default_factory=list)
    cut: bool = False  # it never came to its end: its tools were not begun
    unfinished: bool = False  # the model reached its limit in the middle of it


def told(outcome: str, *, by: str = "", reason: str = "") -> str:
    """What the model reads of a call that has nothing of its own to say, or not only that."""
    sentence = TOLD.get(outcome, TOLD["unknown"]).format(by=by or "the user")
    return f"{sentence} Reason: {reason.strip()}" if reason.strip() else sentence


def asked(parts: Sequence[Part]) -> list[Block]:
    """What a person sent: the files first, as the model reads them best, then the text as one block."""
    blocks = [file_block(part) for part in parts if part.get("type") in ("image", "file")]
    text = "".join(_str(part, "text") for part in parts if part.get("type") == "text")
    return [*blocks, {"type": "text", "text": text}] if text.strip() else blocks


def file_block(part: Part) -> Block:
    """Its name, and of one that is stored where its bytes go (`chat/agent/attachments.py` puts them in)."""
    named = f"{part['type']}: {_str(part, 'name') or 'without a name'}"
    if file := _str(part, "file"):
        return {"type": REFERENCE, "file": file, "text": named}
    return {"type": "text", "text": f"[{named}]"}


def steps_of(parts: Sequence[Part], ended: str | None, taken: set[str], *, signed: bool, going_on: bool) -> list[Step]:
    """The steps of an answer that have anything to tell, in order. `ended`: how its run ended; None: it has not.

    `taken` are the ids used in this prompt so far; those used here are added. `signed`: the reasoning's signatures
    are good for who reads it. `going_on`: the last step's results are what the model is now waiting for.
    """
    results = _results(parts)
    groups = list(_by_step(_called_once(parts)))
    served = _served(groups, going_on=going_on)
    steps = []
    for number, group in enumerate(groups):
        # Only the last step can be what the end of the run cut short: what earlier ones say never changes again.
        now = ended if number == len(groups) - 1 else None
        step = _step(group, results, taken, served, ended=now, signed=signed)
        if step.added or step.said or step.calls:
            steps.append(step)
    return steps


def _results(parts: Sequence[Part]) -> dict[str, Part]:
    """One result for each call: the first that is whole, else the first."""
    results: dict[str, Part] = {}
    for part in parts:
        call = _str(part, "call")
        if call and part.get("type") == "tool_result" and (call not in results or _whole(part) > _whole(results[call])):
            results[call] = part
    return results


def _called_once(parts: Sequence[Part]) -> Iterator[Part]:
    seen: set[str] = set()
    for part in parts:
        call = _str(part, "call")
        if part.get("type") != "tool_use" or not call or call not in seen:
            yield part
        if _called(part):
            seen.add(call)


def _called(part: Part) -> bool:
    """It arrived to its end. Its `state` says no more: that of a call may tell how its run ended."""
    return part.get("type") == "tool_use" and isinstance(part.get("input"), dict)


def _by_step(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """What the model made, call by call of it. Without numbers, a result is the end of a step."""
    group: list[Part] = []
    number, answered = 0, False
    for part in parts:
        if part.get("type") == "tool_result":
            answered = True
        elif part.get("type") in ("text", "reasoning", "tool_use", "block", "steer"):
            numbered = isinstance(part.get("step"), int)
            now = part["step"] if numbered else number + (answered and bool(group))
            if now != number and group:
                yield group
                group = []
            number, answered = now, False
            group.append(part)
    if group:
        yield group


def _served(groups: Sequence[Sequence[Part]], *, going_on: bool) -> dict[int, str]:
    """Which blocks of tools that the provider runs itself may be told: part (by identity) → id of the call.

    Those that come in pairs. A result may come a step later than its call, if tools of ours were called beside it;
    while the model waits for those, the call stands alone.
    """
    served: dict[int, str] = {}
    waiting: dict[str, tuple[int, Part]] = {}
    for number, group in enumerate(groups):
        for part in group:
            block = part.get("block")
            if part["type"] != "block" or not isinstance(block, dict) or not _whole(part):
                continue
            kind, call = str(block.get("type")), str(block.get("tool_use_id"))
            if kind in _CALLS:
                waiting[str(block.get("id"))] = (number, part)
            elif kind.endswith("_tool_result") and call in waiting:
                came, use = waiting.pop(call)
                if came == number or (came == number - 1 and any(map(_called, groups[came]))):
                    served |= {id(use): call, id(part): call}
    if going_on and groups and any(map(_called, groups[-1])):
        served |= {id(use): call for call, (number, use) in waiting.items() if number == len(groups) - 1}
    return served


def _step(
    group: Sequence[Part],
    results: Mapping[str, Part],
    taken: set[str],
    served: dict[int, str],
    *,
    ended: str | None,
    signed: bool,
) -> Step:
    step = Step(cut=any(not _whole(part) and part["type"] not in ("tool_use", "steer") for part in group))
    step.unfinished = any(bool(part.get("cut")) for part in group)
    calls: list[Part] = []
    lost: list[Part] = []
    for part in group:
        match part["type"]:
            case "steer" if _whole(part) and _str(part, "text").strip():
                step.added.append({"type": "text", "text": _str(part, "text")})
            case "text":
                _append_text(step.said, _str(part, "text"))
            case "reasoning":
                if signed and (thinking := _thinking(part)):
                    step.said.append(thinking)
            case "tool_use":
                (calls if _called(part) else lost).append(part)
            case "block" if _may_pass(part, served, taken):
                step.said.append(part["block"])
    step.cut = (step.cut or bool(lost)) and not any(_str(call, "call") in results for call in [*calls, *lost])
    step.said = [block for block in map(_stripped, step.said) if block["type"] != "text" or block["text"]]
    while step.said and not calls and step.said[-1]["type"] in _THINKING:
        step.said.pop()  # refused as the last block, and worth nothing without what it led to
    for call in lost:
        gave = results.get(_str(call, "call"), {})
        why = f"failed: {_str(gave, 'text')}" if _str(gave, "outcome") == "error" else "was cut off here"
        note = f"[a call of {_name(call)} {why}]"
        _append_text(step.said, f"\n\n{note}" if step.said and step.said[-1]["type"] == "text" else note)
    for call in calls:
        use = {"type": "tool_use", "id": _free(_str(call, "id"), taken), "name": _name(call), "input": call["input"]}
        step.calls.append(use)
        result = results.get(_str(call, "call"))
        step.results.append(_result(use["id"], result) if result else _missing(use["id"], ended, cut=step.cut))
    return step


def _may_pass(part: Part, served: dict[int, str], taken: set[str]) -> bool:
    """A call whose id is taken is left out, and its result with it: such a block is told unharmed or not at all."""
    block = part.get("block")
    if not isinstance(block, dict) or not _whole(part) or not isinstance(kind := block.get("type"), str):
        return False
    if kind in _CALLS and id(part) in served:
        call = served[id(part)]
        if call in taken:
            for clashing in [key for key, value in served.items() if value == call]:
                del served[clashing]
        taken.add(call)
    paired = kind in _CALLS or kind.endswith("_tool_result")
    return kind not in _OWN_PARTS and (id(part) in served or not paired)


def _append_text(said: list[Block], text: str) -> None:
    """Texts that stand side by side are one block, whatever stood between them in the parts."""
    if said and said[-1]["type"] == "text":
        said[-1]["text"] += text
    elif text:
        said.append({"type": "text", "text": text})


def _stripped(block: Block) -> Block:
    return {**block, "text": block["text"].rstrip()} if block["type"] == "text" else block


def _thinking(part: Part) -> Block | None:
    """Unchanged, or not at all: a signature is over the whole of it, and comes at its very end."""
    if data := _whole(part) and _str(part, "data"):
        return {"type": "redacted_thinking", "data": data}
    if signature := _whole(part) and _str(part, "signature"):
        return {"type": "thinking", "thinking": _str(part, "text"), "signature": signature}
    return None


def _result(use: str, part: Part) -> Block:
    outcome = _str(part, "outcome") or ("done" if _whole(part) else "unknown")
    failed = bool(part.get("error", False)) or outcome != "done"
    outcome = "error" if failed and outcome == "done" else outcome
    text, why = _as_told(part), told(outcome, by=_by(part), reason=_str(part, "reason"))
    if not text or (outcome not in _SPEAKS_FOR_ITSELF and not text.startswith(told(outcome, by=_by(part)))):
        text = f"{why}\n\n{text}".rstrip()
    if outcome in ("done", "error") and _by(part):  # on a device
        text += f"\n\n[Answered by {_by(part)}{_from(part)}]"
    return _tool_result(use, text, failed=failed)


def _as_told(part: Part) -> str:
    """What a tool has found, or its beginning where the rest takes too much room. For ever the same: it is stored."""
    text, characters = _str(part, "text"), part.get("told")
    if not isinstance(characters, int) or len(text) <= characters:
        return text.strip()
    return f"{text[:characters]}\n\n[{len(text) - characters} more characters were left out, to make room]".strip()


def _missing(use: str, ended: str | None, *, cut: bool) -> Block:
    """Nobody stored a result: whether it ran is not known, but of a step that never came to its end."""
    if cut:
        return _tool_result(use, TOLD["stopped" if ended == "cancelled" else "cut"], failed=True)
    stopped = "Stopped by the user. " if ended == "cancelled" else ""
    return _tool_result(use, stopped + TOLD["unknown"], failed=True)


def _tool_result(use: str, text: str, *, failed: bool) -> Block:
    block: Block = {"type": "tool_result", "tool_use_id": use, "content": text}
    return {**block, "is_error": True} if failed else block


def _free(wanted: str, taken: set[str]) -> str:
    """An id the API takes and this prompt has not used: it depends on nothing that comes later."""
    base = _REFUSED.sub("-", wanted) or "call"
    free, number = base, 1
    while free in taken:
        number += 1
        free = f"{base}-{number}"
    taken.add(free)
    return free


def _whole(part: Part) -> bool:
    return bool(part.get("state", "done") == "done")


def _name(part: Part) -> str:
    return _REFUSED.sub("_", _str(part, "name"))[:128] or "unknown"


def _by(part: Part) -> str:
    """Who decided: a name, or an identity as the log has it."""
    by = part.get("by")
    return _str(by, "user") if isinstance(by, dict) else by if isinstance(by, str) else ""


def _from(part: Part) -> str:
    name = _str(part["by"], "device_name") if isinstance(part.get("by"), dict) else ""
    return f" on {name}" if name else ""


def _str(part: Part, key: str) -> str:
    value = part.get(key)
    return value if isinstance(value, str) else ""
