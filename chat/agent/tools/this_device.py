"""What the device says of itself that the person works at. A page answers by itself: `static/chat/offers.js`."""

from chat.agent.tool import Context, device_tool


@device_tool(seconds=60)
async def this_device(context: Context) -> None:
    """Find out about the device that the person has this conversation open on: its time zone and local time, its
    language, the size of its screen and whether it is online. If no page of theirs is open, there is no answer.
    """
