"""A question of the agent's to the person at a terminal: what is shown, and what was meant by what they typed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

DECLINED = "The person chose not to answer this question."


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    options: tuple[str, ...] = ()
    several: bool = False
    free_text: bool = True

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> "Question":
        """What `ask_user` was asked with."""
        options = tuple(str(option) for option in arguments.get("options") or ())
        free_text = bool(arguments.get("free_text", True)) or not options
        return cls(str(arguments.get("question", "")), options, bool(arguments.get("several", False)), free_text)

    @property
    def lines(self) -> list[str]:
        """The question, its options, and how to answer."""
        options = [f"  {number}. {option}" for number, option in enumerate(self.options, 1)]
        how = "numbers" if self.several else "a number"
        if self.free_text:
            how = f"{how}, or what you like" if self.options else "your answer"
        return [f"? {self.text}", *options, f"[type {how}; /skip if you would rather not]"]

    def answer_to(self, typed: str) -> str | None:
        """What was meant; None if it is none of the options and must be."""
        chosen = self._chosen(typed.replace(",", " ").split())
        if chosen:
            return "\n".join(chosen)
        named = next((option for option in self.options if option.casefold() == typed.strip().casefold()), None)
        return named or (typed.strip() if self.free_text else None) or None

    def _chosen(self, words: list[str]) -> list[str]:
        numbers = [int(word) for word in words if word.isascii() and word.isdigit() and len(word) < 4]
        if len(numbers) != len(words) or not all(1 <= number <= len(self.options) for number in numbers):
            return []
        return [] if len(numbers) > 1 and not self.several else [self.options[number - 1] for number in numbers]
