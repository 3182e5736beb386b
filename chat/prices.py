"""What tokens cost, by a table that the operator writes. Without a price there is no cost: none is made up here."""

import json
import math
from collections.abc import Mapping
from functools import lru_cache

# How providers name what they count, and how prices do.
KINDS = {
    "input_tokens": "input",
    "output_tokens": "output",
    "cache_creation_input_tokens": "cache_write",
    "cache_read_input_tokens": "cache_read",
}
PER = 1_000_000


@lru_cache(maxsize=4)
def read(text: str) -> dict[str, dict[str, float]]:
    """model → kind → price of a million tokens, from JSON. Raises ValueError, saying what is wrong."""
    try:
        table = json.loads(text or "{}")
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from None
    if not isinstance(table, dict) or not all(isinstance(prices, dict) for prices in table.values()):
        raise ValueError("it is not an object of objects")
    for model, prices in table.items():
        for kind, price in prices.items():
            if kind not in KINDS.values():
                raise ValueError(f"{model!r} has a price for {kind!r}")
            if type(price) not in {int, float} or not math.isfinite(price) or price < 0:
                raise ValueError(f"{model!r} has the price {price!r}")
    return table


def cost(text: str, model: str, usage: Mapping[str, int]) -> float | None:
    """Of so many tokens; None where the table does not have the model."""
    prices = read(text).get(model)
    if prices is None:
        return None
    return sum(usage.get(name, 0) * prices.get(kind, 0) for name, kind in KINDS.items()) / PER
