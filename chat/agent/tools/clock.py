"""What time it is somewhere, by the zones of the machine (or of the package tzdata)."""

import asyncio
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import cache
from typing import Annotated
from zoneinfo import ZoneInfo, available_timezones

from pydantic import Field

from chat.agent.tool import Context, ToolRefused

SUGGESTIONS = 5
YEAR = 366  # days to look ahead for a change of the offset


async def time_in(context: Context, place: Annotated[str, Field(min_length=1, max_length=80)]) -> str:
    """Tell the current date and time in a place, its offset from UTC, and when that offset changes next.

    place: a time zone's IANA name, such as Europe/Berlin, or the city in it, such as New York; UTC also works
    """
    return await asyncio.to_thread(_told, place, datetime.now(UTC))  # zones are files


def _told(place: str, now: datetime) -> str:
    zone = _zone(place, now)
    here = now.astimezone(zone)
    told = f"In {zone.key} it is {here:%A}, {here.day} {here:%B %Y}, {here:%H:%M:%S} ({_offset(here)})."
    change = _next_change(zone, now)
    if change is None:
        return f"{told} The offset does not change in the coming year."
    after = change.astimezone(zone)
    return f"{told} From {after.day} {after:%B %Y}, {after:%H:%M} local time on: {_offset(after)}."


def _offset(moment: datetime) -> str:
    named = f"{moment:%Z}"
    offset = f"UTC{moment.isoformat()[-6:]}"
    return f"{named}, {offset}" if named.isalpha() else offset  # zones without a name give their offset for one


def _zone(place: str, now: datetime) -> ZoneInfo:
    """The zone meant. Of several that end alike the first, if all have the same time the whole year."""
    by_name = _names()
    wanted = _simple(place)
    found = [ZoneInfo(name) for name in by_name.get(wanted, ())]
    if not found:
        close = [by_name[key][0] for key in get_close_matches(wanted, by_name, n=SUGGESTIONS, cutoff=0.6)]
        hint = f"Did you mean {', '.join(dict.fromkeys(close))}?" if close else "Give one such as Europe/Berlin."
        raise ToolRefused(f"place: there is no time zone {place!r}. {hint}")
    times = {tuple(zone.utcoffset(now + timedelta(days=days)) for days in range(0, YEAR, 30)) for zone in found}
    if len(times) > 1:
        raise ToolRefused(f"place: {place!r} can be {', '.join(zone.key for zone in found)}. Say which.")
    return found[0]


@cache
def _names() -> dict[str, list[str]]:
    """Each zone by its whole name, and by the last part of it."""
    by_name: dict[str, list[str]] = {}
    zones = sorted(available_timezones())
    for zone in zones:
        by_name[_simple(zone)] = [zone]
    for zone in zones:
        city = _simple(zone.rpartition("/")[2])
        if city not in map(_simple, by_name.get(city, ())):  # `GMT` is that zone, and not Etc/GMT
            by_name.setdefault(city, []).append(zone)
    return by_name


def _simple(name: str) -> str:
    return "_".join(name.casefold().replace("_", " ").split())


def _next_change(zone: ZoneInfo, now: datetime) -> datetime | None:
    """The first minute with another offset, within a year."""
    offset = now.astimezone(zone).utcoffset()
    for day in range(1, YEAR + 1):
        late = now + timedelta(days=day)
        if late.astimezone(zone).utcoffset() == offset:
            continue
        early = late - timedelta(days=1)
        while late - early > timedelta(seconds=1):
            middle = early + (late - early) / 2
            if middle.astimezone(zone).utcoffset() == offset:
                early = middle
            else:
                late = middle
        return late.replace(microsecond=0)
    return None
