"""What tokens cost, by a table that the operator writes. Without a price there is no cost: none is made up here.

Sums are kept as whole millionths of the currency. A price is for a million tokens, so it is also what one token costs
in millionths.
"""

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


def per_token(text: str, model: str) -> dict[str, float] | None:
    """What providers call a kind of token → its price in millionths. None where the table does not have the model."""
    prices = read(text).get(model)
    return prices and {name: prices[kind] for name, kind in KINDS.items() if kind in prices}


def cost(prices: Mapping[str, float] | None, usage: Mapping[str, int]) -> float | None:
    """In millionths. None, which is not the same as nothing, if there is no price for some of it."""
    prices = prices or {}
    used = {name: usage[name] for name in KINDS if usage.get(name)}
    if not used.keys() <= prices.keys():
        return None
    return sum(count * prices[name] for name, count in used.items())


def tokens_in(usage: Mapping[str, int]) -> int:
    """All that the model has read: providers count apart what a cache had or took."""
    return sum(usage.get(name, 0) for name in KINDS if name != "output_tokens")


def written(millionths: int, currency: str) -> str:
    """For a person, with as many places as say something."""
    if 0 < millionths < 100:
        return f"less than 0.0001 {currency}"
    places = 2 if millionths >= PER or millionths % 10_000 == 0 else 4
    return f"{millionths / PER:,.{places}f} {currency}"
