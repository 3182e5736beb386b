"""How far a tool is, said often enough and no oftener."""

from chat.agent.progress import Progress
from tests.device import until


async def test_of_many_texts_the_first_is_told_at_once_and_then_the_newest() -> None:
    told: list[str] = []
    progress = Progress(told.append)
    for number in range(1_000):
        await progress.show(str(number))
    assert told == ["0"]
    await until(lambda: len(told) > 1, "the newest")
    assert told == ["0", "999"]


async def test_nothing_is_told_after_the_end() -> None:
    told: list[str] = []
    progress = Progress(told.append)
    for text in ("first", "kept"):
        await progress.show(text)
    progress.end()
    await progress.show("late")
    other = Progress(told.append)
    for text in ("other", "newest"):
        await other.show(text)
    await until(lambda: "newest" in told, "what was kept at the same time")
    assert told == ["first", "other", "newest"]
