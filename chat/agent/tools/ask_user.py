"""A question to the person the agent works for. Every page of theirs shows it as a form; the terminal asks it, too."""

from typing import Annotated

from pydantic import Field

from chat.agent.tool import Context, device_tool

Option = Annotated[str, Field(min_length=1, max_length=120)]


@device_tool()
async def ask_user(
    context: Context,
    question: Annotated[str, Field(min_length=1, max_length=600)],
    options: Annotated[tuple[Option, ...], Field(max_length=8)] = (),
    several: bool = False,
    free_text: bool = True,
) -> None:
    """Ask the person something that you cannot find out yourself and need to know before you go on, and wait for it.

    They may also choose not to answer. Ask one thing at a time, and do not ask for permission to use another tool.

    question: one question, in plain text and their language
    options: short answers to choose from, if there are some
    several: whether more than one of the options may be chosen
    free_text: whether they may also answer in their own words; always so without options
    """
