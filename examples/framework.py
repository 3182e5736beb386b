"""An agent made with pydantic-ai. Its tools are ours: executed once, approved by people, shown on every device."""

import os
from collections.abc import AsyncGenerator, Sequence

from pydantic_ai import Agent, AgentRunResultEvent, DeferredToolRequests, PartDeltaEvent, PartStartEvent
from pydantic_ai.exceptions import ModelAPIError
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    TextPartDelta,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets import ExternalToolset

from chat.agent.provider import PromptMessage, ProviderError, ProviderEvent, Text, Tool, Turn, Usage, tool_call

# "test" is the framework's own model that needs no network. With the package for yours: "openai:gpt-…", "google:…".
agent = Agent(os.environ.get("AGENT_MODEL", "test"), output_type=[str, DeferredToolRequests])


async def reply(turn: Turn) -> AsyncGenerator[ProviderEvent, None]:
    """One request of the model. If it asks for tools, we are asked again, with what they found in the prompt."""
    history = messages_of(turn.prompt)
    tools = [ExternalToolset([definition_of(tool) for tool in turn.tools])]
    try:
        run = agent.run_stream_events(message_history=history, instructions=turn.system, toolsets=tools)
        async with run as events:  # leaving it, by Stop as well, ends the framework's own task
            async for event in events:
                match event:
                    case PartStartEvent(part=TextPart(content=text)) if text:
                        yield Text(text)
                    case PartDeltaEvent(delta=TextPartDelta(content_delta=text)) if text:
                        yield Text(text)
                    case AgentRunResultEvent(result=result):
                        used = result.usage
                        yield Usage({"input_tokens": used.input_tokens, "output_tokens": used.output_tokens})
                        if isinstance(result.output, DeferredToolRequests):
                            for call in result.output.calls:
                                for asked in tool_call(call.tool_name, call.args_as_dict(), id=call.tool_call_id):
                                    yield asked
    except ModelAPIError as error:
        raise ProviderError("unreachable", "The model cannot be reached. Try again.", retryable=True) from error


def definition_of(tool: Tool) -> ToolDefinition:
    return ToolDefinition(name=tool.name, description=tool.description, parameters_json_schema=tool.input_schema)


def messages_of(prompt: Sequence[PromptMessage]) -> list[ModelMessage]:
    """The prompt in the framework's words. The last message is the user's, or results: the run goes on from there."""
    messages: list[ModelMessage] = []
    names: dict[str, str] = {}  # of the calls, by their ids
    for message in prompt:
        asked: list[UserPromptPart | ToolReturnPart] = []
        said: list[TextPart | ToolCallPart] = []
        for block in message["content"]:
            match block["type"]:
                case "text" if message["role"] == "user":
                    asked.append(UserPromptPart(block["text"]))
                case "text":
                    said.append(TextPart(block["text"]))
                case "tool_use":
                    names[block["id"]] = block["name"]
                    said.append(ToolCallPart(block["name"], block["input"], block["id"]))
                case "tool_result":
                    call = block["tool_use_id"]
                    asked.append(ToolReturnPart(names[call], block["content"], call))
        messages.append(ModelRequest(asked) if message["role"] == "user" else ModelResponse(said))
    return messages
