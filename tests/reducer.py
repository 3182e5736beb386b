"""What a program makes of frames: the plainest possible reader of the protocol, and the judge of I1.

`apply` raises AssertionError at the first gap, repeat or reordering.
"""

from dataclasses import dataclass, field
from typing import Any

_OVER = {"done", "error", "denied", "expired", "cancelled", "unknown"}


@dataclass
class View:
    """A conversation as one device knows it. Equal views mean equal knowledge."""

    cursor: int = -1
    title: str = ""
    messages: dict[str, dict[str, Any]] = field(default_factory=dict)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    people: dict[str, str] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    partial: bool = False  # we were given the newest turns only

    def apply(self, frame: dict[str, Any]) -> bool:
        """Take in a frame. False: it was nothing new, or carries no serial."""
        if frame["type"] == "snapshot":
            self._snapshot(frame)
            return True
        if frame["type"] == "snapshot.text":
            self._text(frame)
            return True
        if "serial" not in frame or "after" not in frame:
            return False
        assert self.cursor >= 0, f"an event before the snapshot: {frame}"
        assert frame["after"] < frame["serial"], f"an empty range: {frame}"
        if frame["serial"] <= self.cursor:
            raise AssertionError(f"a repeat: {frame['after']}..{frame['serial']}, we are at {self.cursor}")
        if frame["after"] > self.cursor:
            raise AssertionError(f"a gap: {frame['after']}..{frame['serial']}, we are at {self.cursor}")
        for event in frame["events"] if frame["type"] == "batch" else [frame]:
            self._event(event)
        self.cursor = frame["serial"]
        return True

    def text_of(self, run: str) -> str:
        """What the run's answer says; nothing while the run is unknown or has not started."""
        return "".join(part["text"] for part in self.parts_of(run) if part["type"] == "text")

    def parts_of(self, run: str) -> list[dict[str, Any]]:
        """What the run's answer is made of."""
        message = self.runs.get(run, {}).get("answer")
        parts: list[dict[str, Any]] = self.messages[message]["parts"] if message else []
        return parts

    def state_of(self, run: str) -> str:
        """The run's state; empty while it is unknown: an ack can be faster than the event."""
        return str(self.runs.get(run, {}).get("state", ""))

    def comparable(self) -> dict[str, Any]:
        """Everything two devices must agree on."""
        return {
            "cursor": self.cursor,
            "title": self.title,
            "messages": self.messages,
            "runs": self.runs,
            "people": self.people,
            "order": [message for message in self.order if self.messages[message]["place"] is None],
        }

    def _snapshot(self, frame: dict[str, Any]) -> None:
        self.cursor, self.title = frame["serial"], frame["title"]
        self.messages, self.runs, self.order, self.partial = {}, {}, [], frame["older"] is not None
        self.people = {person["user"]: person["role"] for person in frame["people"]}
        for turn in frame["turns"]:
            self.messages[turn["message"]] = {"role": "user", **said(turn["parts"]), "place": turn["place"]}
            if turn.get("summary"):
                self.messages[turn["message"]]["summary"] = turn["summary"]
            for answer in turn["answers"]:
                if answer["message"]:
                    self.messages[answer["message"]] = {
                        "role": "assistant",
                        "parts": [dict(part) for part in answer["parts"]],  # a frame is not changed
                        "place": turn["place"],
                    }
                run = {"state": answer["state"], "prompt": turn["message"], "answer": answer["message"]}
                if answer["ending"]:
                    run["by"] = answer["ending"]["by"]
                    run["error"] = answer["ending"]["error"]
                run["cancelling"] = answer["cancelling"]
                run["steers"] = {one["steer"]: (one["text"], one["state"], one["by"]) for one in answer["steers"]}
                self.runs[answer["run"]] = run
        for waiting in frame["queue"]:
            self.messages[waiting["message"]] = {"role": "user", **said(waiting["parts"]), "place": None}
            self.runs[waiting["run"]] = new_run(waiting["message"])
            self.order.append(waiting["message"])

    def _text(self, event: dict[str, Any]) -> None:
        message, number = self.messages[event["message"]], event["part"]
        if message["role"] == "user":  # the rest of a long one
            message["text"] = message["text"][: event["offset"]] + event["text"]
            return
        parts = message["parts"]
        if not parts:
            assert number == 0, f"a part that never began: {event}"
            parts.append({"type": "text", "text": "", "state": "open"})
        part = parts[number]
        assert event["offset"] <= len(part["text"]), f"a hole in the text: {event}"
        part["text"] = part["text"][: event["offset"]] + event["text"]

    def _part(self, event: dict[str, Any]) -> None:
        parts, number = self.messages[event["message"]]["parts"], event["part"]
        match event["type"]:
            case "part.started":
                assert number == len(parts), f"not the next part: {event}"
                assert not parts or parts[-1]["state"] != "open", f"two parts at once: {event}"
                named: dict[str, Any] = {name: event[name] for name in ("step", "call", "name") if name in event}
                parts.append({"type": event["kind"], "text": "", "state": "open", **named})
            case "part.ended":
                if not parts and event["length"] == 0:
                    parts.append({"type": "text", "text": "", "state": "open"})
                part = parts[number]
                assert part["state"] == "open", f"ended twice: {event}"
                assert len(part["text"]) == event["length"], f"not the text that was written: {event}"
                part["state"] = event["state"]
                if part["type"] == "tool_use":
                    part["status"] = "asked" if event["state"] == "done" else "cancelled"
            case "citation.added":
                assert number == len(parts), f"not the next part: {event}"
                assert 0 <= event["at"] <= len(parts[event["of"]]["text"]), f"of nothing: {event}"
                told = {name: event[name] for name in ("title", "url", "text", "of", "at", "step")}
                parts.append({"type": "citation", "state": "done", **told})
            case "tool.called":
                assert parts[number]["status"] in {"asked", "approved"}, f"twice, or never allowed: {event}"
                assert "offer" not in parts[number], f"it is a device's: {event}"
                parts[number]["status"] = "running"
            case "tool.result":
                assert number == len(parts), f"not the next part: {event}"
                [call] = [one for one in parts if one["type"] == "tool_use" and one["call"] == event["call"]]
                assert call["status"] not in _OVER - {"denied", "expired"}, f"two results: {event}"
                call["status"] = event["outcome"]
                if "by" in event:
                    call["offer"] = {**call["offer"], "by": event["by"]}
                told = {name: event[name] for name in ("call", "name", "step", "text", "outcome", "error")}
                parts.append({"type": "tool_result", "state": "done", **told})
            case "part.shortened":
                assert parts[number]["type"] == "tool_result", f"no result: {event}"
                assert event["told"] < parts[number].get("told", len(parts[number]["text"])), f"not shorter: {event}"
                parts[number]["told"] = event["told"]
            case "approval.requested":
                parts[number]["status"] = "waiting"
                parts[number]["approval"] = {"hash": event["hash"], "shown": event["shown"]}
                parts[number]["until"] = event["until"]
            case "tool.offered":
                assert parts[number]["status"] in {"asked", "approved"}, f"twice, or never allowed: {event}"
                told = {"arguments": event["arguments"], "user": event["user"]}
                parts[number] |= {"status": "offered", "offer": told, "until": event["until"]}
            case "approval.decided":
                assert parts[number]["status"] == "waiting", f"decided twice: {event}"
                parts[number]["status"] = event["decision"]
                told = {name: event[name] for name in ("decision", "by", "reason")}
                parts[number]["approval"] = {**parts[number]["approval"], **told}

    def _steer(self, event: dict[str, Any]) -> None:
        steers, parts = self.runs[event["run"]]["steers"], self.parts_of(event["run"])
        state = event["type"].removeprefix("steer.")
        if state == "consumed":
            assert event["part"] == len(parts), f"not the next part: {event}"
            text, was, who = steers.pop(event["steer"])
            assert (was, text, who) == ("pending", event["text"], event["who"]), f"not what was accepted: {event}"
            told = {name: event[name] for name in ("steer", "who", "step", "text")}
            parts.append({"type": "steer", "state": "done", **told})
        elif "part" in event:
            assert parts[event["part"]]["steer"] == event["steer"], f"another one's part: {event}"
            parts[event["part"]]["state"] = state
        else:
            text, was, who = steers.pop(event["steer"])
            assert was == ("pending" if state == "missed" else "missed"), f"out of order: {event}"
            if state == "missed":
                steers[event["steer"]] = (text, state, who)

    def _event(self, event: dict[str, Any]) -> None:
        run, message = event.get("run", ""), event.get("message", "")
        if self.partial and self._is_of_an_older_turn(event):
            return
        match event["type"]:
            case "message.created":
                assert message not in self.messages, "a message twice"
                self.messages[message] = {"role": event["role"], **said(event["parts"]), "place": event["place"]}
                self.runs[run] = new_run(message)
                if event["place"] is None:
                    self.order.append(message)
            case "message.delta" | "message.snapshot":
                self._text(event)
            case "part.started" | "part.ended" | "citation.added" | "tool.called" | "tool.result":
                self._part(event)
            case "approval.requested" | "approval.decided" | "tool.offered" | "part.shortened":
                self._part(event)
            case "conversation.summarised":
                for one in self.messages.values():
                    if one["role"] == "user" and one["place"] == event["until"]:
                        one["summary"] = {name: event[name] for name in ("summary", "until", "text", "model")}
            case "run.steered":
                self.runs[run]["steers"][event["steer"]] = (event["text"], "pending", event["by"])
            case "steer.consumed" | "steer.missed" | "steer.sent":
                self._steer(event)
            case "run.waiting":
                self.runs[run]["state"] = "waiting"
            case "message.edited":
                self.messages[message] |= said(event["parts"])
            case "message.removed":
                prompt = self.messages.pop(message)
                assert prompt["place"] is None
                self.order.remove(message)
                self.runs = {key: value for key, value in self.runs.items() if value["prompt"] != message}
            case "queue.changed":
                self.order = event["order"]
            case "run.queued":
                self.runs.setdefault(run, new_run(message))["state"] = "queued"
            case "run.started":
                self._place(event["prompt"], event["place"])
                self.runs[run].update(state="running", answer=message)
                if message not in self.messages:
                    self.messages[message] = {"role": "assistant", "parts": [], "place": event["place"]}
            case "run.cancelling":
                self.runs[run]["cancelling"] = True
            case "run.ended":
                assert event["length"] == len(self.text_of(run)), "not the text that was written"
                assert self.runs[run]["state"] in {"queued", "running", "waiting"}, f"ended twice: {event}"
                self._place(event["prompt"], event["place"])
                for part in self.parts_of(run):
                    if part["state"] == "open":  # of one that was never announced
                        part["state"] = "done" if event["reason"] == "completed" else event["reason"]
                self.runs[run].update(state=event["reason"], by=event["by"], error=event["error"], cancelling=False)
            case "participant.joined" | "participant.changed":
                self.people[event["user"]] = event["role"]
            case "participant.left":
                self.people.pop(event["user"], None)
            case "conversation.renamed":
                self.title = event["title"]
            case unknown:
                raise AssertionError(f"an event nobody told the reader about: {unknown}")

    def _is_of_an_older_turn(self, event: dict[str, Any]) -> bool:
        match event["type"]:
            case "run.queued":
                return event["message"] not in self.messages
            case "run.started" | "run.ended":
                return event["prompt"] not in self.messages
            case "message.delta" | "message.snapshot" | "part.started" | "part.ended" | "citation.added":
                return event["run"] not in self.runs
            case "tool.called" | "tool.result" | "tool.offered" | "part.shortened":
                return event["run"] not in self.runs
            case "run.steered" | "steer.consumed" | "steer.missed" | "steer.sent":
                return event["run"] not in self.runs
            case "run.cancelling" | "run.waiting" | "approval.requested" | "approval.decided":
                return event["run"] not in self.runs
        return False

    def _place(self, prompt: str, place: int | None) -> None:
        self.messages[prompt]["place"] = place
        if prompt in self.order and place is not None:
            self.order.remove(prompt)


def new_run(prompt: str) -> dict[str, Any]:
    """One that waits for its turn."""
    return {"state": "queued", "prompt": prompt, "answer": None, "cancelling": False, "steers": {}}


def said(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """A person's message: its text, and its files if it has any."""
    files = [part for part in parts if part["type"] != "text"]
    text = "".join(part["text"] for part in parts if part["type"] == "text")
    return {"text": text, **({"files": files} if files else {})}
