"""What an idle device costs: the server's resident memory with so many connected, less that with none.

Unit: KiB per device. n: devices. Target: ≤ 48 KiB. Baseline: the plain application with the same devices.
"""

import argparse
import asyncio

from bench.client import Device, chat_device, close_all, connect_all
from bench.process import Process, Site
from bench.table import Row, times

NAME = "memory"
TARGET = 48.0
WARM_UP = 50  # devices that come and go first: what is loaded once is nobody's


def add_arguments(parser: argparse.ArgumentParser, *, quick: bool) -> None:
    parser.add_argument("--devices", type=int, nargs="+", default=[100, 200] if quick else [1000, 2000])
    parser.add_argument("--conversations", type=int, default=10, help="the devices are spread over")


async def growth(server: Process, devices: list[Device], counts: list[int]) -> list[float]:
    """KiB per device at each count."""
    await connect_all(devices[:WARM_UP])
    await close_all(devices[:WARM_UP])
    await asyncio.sleep(1.0)
    del devices[:WARM_UP]
    empty, connected, found = server.resident(), 0, []
    for count in sorted(counts):
        await connect_all(devices[connected:count])
        connected = count
        await asyncio.sleep(2.0)
        found.append((server.resident() - empty) / 1024 / count)
    await close_all(devices)
    return found


async def measure(options: argparse.Namespace) -> list[Row]:
    total = max(options.devices) + WARM_UP
    with Site() as site:
        server = site.serve_plain()
        devices = [Device(server.port, f"/plain/group-{n % options.conversations}/") for n in range(total)]
        theirs = await growth(server, devices, options.devices)
    with Site() as site:
        made = site.prepare(conversations=options.conversations)
        server = site.serve()
        places = made["conversations"]
        devices = [chat_device(server.port, made["session"], places[n % len(places)]) for n in range(total)]
        found = await growth(server, devices, options.devices)
    return [
        Row(
            NAME,
            "memory per idle device",
            f"{figure:.1f} KiB",
            f"≤ {TARGET:g} KiB",
            figure <= TARGET,
            f"plain app {baseline:.1f} KiB",
            times(figure, baseline),
            f"{count:,}",
        )
        for count, figure, baseline in zip(sorted(options.devices), found, theirs, strict=True)
    ]
