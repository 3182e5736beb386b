"""Arithmetic that is right: with fractions, not with floats, and nothing that could run for long.

The expression is read by Python's parser and walked; nothing of it is ever executed. Each bound below is small
enough that an expression at all of them takes milliseconds.
"""

import ast
import math
import re
from collections.abc import Callable
from decimal import Context as Decimals
from decimal import Decimal, DecimalException
from fractions import Fraction
from typing import Annotated

from pydantic import Field

from chat.agent.tool import Context, ToolRefused

MAX_CHARS = 1_000  # of an expression
MAX_NESTING = 50
MAX_DIGITS = 1_000  # of a number, and of a numerator and a denominator on the way
PLACES = 30  # digits of a result that does not come to an end
_MAX_BITS = int(MAX_DIGITS / math.log10(2))
_ROOTS = Decimals(prec=50, Emin=-10_000, Emax=10_000)  # digits of what is no fraction

_TOKEN = re.compile(
    r" |(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE](?P<exponent>[+-]?[0-9]+))?)(?![\w.])"
    r"|(?P<name>[a-z]+)(?!\w)|(?P<sign>\*\*|//|[-+*/%(),])"
)
_WRITTEN = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "^": "**"})


async def calculate(context: Context, expression: Annotated[str, Field(min_length=1, max_length=MAX_CHARS)]) -> str:
    """Calculate, exactly. Use it for any arithmetic with more than a few digits.

    Numbers are decimals such as 12, 0.1 or 1.5e3, without thousands separators. There are + - * / ** (or ^),
    // (quotient, rounded down), % (remainder; a percentage is written 15/100), parentheses, pi, e, and the functions
    abs, ceil, floor, max, min, round (a half goes to the even neighbour; a second argument says how many places)
    and sqrt. The result is exact, or says that it is rounded.

    expression: what to calculate, such as (1200 * 1.19 - 50) / 3
    """
    return _calculated(expression)


def _calculated(expression: str) -> str:
    text = " ".join(expression.translate(_WRITTEN).split())
    _check_tokens(text)
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ToolRefused("expression: this cannot be read as arithmetic.") from None
    walk = _Walk(text)
    try:
        value = walk.value(tree.body, 0)
    except ZeroDivisionError:
        raise ToolRefused("expression: this divides by zero.") from None
    except (DecimalException, OverflowError):
        raise _too_large() from None
    return _written(value, exact=walk.exact)


def _check_tokens(text: str) -> None:
    """Only what arithmetic is written with reaches the parser, and no number that is long to write out."""
    if len(text) > 2 * MAX_CHARS:
        raise ToolRefused(f"expression: at most {MAX_CHARS} characters.")
    at = 0
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None:
            raise ToolRefused(f"expression: {text[at]!r} at position {at + 1} is not understood.")
        if token["exponent"] and abs(int(token["exponent"])) > MAX_DIGITS:
            raise _too_large()
        if token["name"] and token["name"] not in _FUNCTIONS and token["name"] not in _CONSTANTS:
            known = ", ".join([*_FUNCTIONS, *_CONSTANTS])
            raise ToolRefused(f"expression: {token['name']!r} is not known. There are {known}.")
        at = token.end()


def _too_large() -> ToolRefused:
    return ToolRefused(f"expression: this leads to a number of more than {MAX_DIGITS} digits.")


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _MAX_BITS:
        raise _too_large()
    return value


class _Walk:
    """One expression's evaluation. `exact` until something in it had to be rounded."""

    def __init__(self, text: str) -> None:
        self.exact = True
        self._text = text

    def value(self, node: ast.expr, depth: int) -> Fraction:
        if depth > MAX_NESTING:
            raise ToolRefused(f"expression: nested more than {MAX_NESTING} deep.")
        match node:
            case ast.BinOp():
                return self._chain(node, depth)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.value(operand, depth + 1)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self.value(operand, depth + 1)
            case ast.Constant(value=int() | float()):
                # As written: the parser has made a float of 0.1.
                return _bounded(Fraction(ast.get_source_segment(self._text, node) or ""))
            case ast.Name(id=name) if name in _CONSTANTS:
                self.exact = False
                return _CONSTANTS[name]
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS and arguments:
                values = [self.value(argument, depth + 1) for argument in arguments]
                return self._sqrt(values) if name == "sqrt" else _bounded(_applied(name, values))
            case _:
                raise ToolRefused("expression: this is more than arithmetic.")

    def _chain(self, node: ast.expr, depth: int) -> Fraction:
        """`a + b - c …` leans to the left: by a loop, so that a long sum counts as one level."""
        steps: list[ast.BinOp] = []
        while isinstance(node, ast.BinOp):
            steps.append(node)
            node = node.left
        value = self.value(node, depth + 1)
        for step in reversed(steps):
            value = _bounded(self._combined(step.op, value, self.value(step.right, depth + 1)))
        return value

    def _combined(self, operator: ast.operator, left: Fraction, right: Fraction) -> Fraction:
        match operator:
            case ast.Add():
                return left + right
            case ast.Sub():
                return left - right
            case ast.Mult():
                return left * right
            case ast.Div():
                return left / right
            case ast.FloorDiv():
                return Fraction(left // right)
            case ast.Mod():
                return left % right
            case ast.Pow():
                return self._power(left, right)
            case _:
                raise ToolRefused("expression: this is more than arithmetic.")

    def _power(self, base: Fraction, exponent: Fraction) -> Fraction:
        if exponent.denominator == 1:
            # Before it is tried. 0, 1 and -1 stay small whatever the exponent.
            bits = max(abs(base.numerator), base.denominator).bit_length() - 1
            if bits * abs(exponent.numerator) > _MAX_BITS:
                raise _too_large()
            return Fraction(base**exponent)
        if exponent == Fraction(1, 2):
            return self._sqrt([base])
        if base < 0:
            raise ToolRefused("expression: a root of a negative number is no real number.")
        self.exact = False
        return Fraction(_ROOTS.power(_decimal(base), _decimal(exponent)))

    def _sqrt(self, values: list[Fraction]) -> Fraction:
        if len(values) != 1:
            raise ToolRefused(f"expression: sqrt does not take {len(values)} numbers.")
        (value,) = values
        if value < 0:
            raise ToolRefused("expression: a root of a negative number is no real number.")
        root = Fraction(math.isqrt(value.numerator), math.isqrt(value.denominator))
        if root * root == value:
            return root
        self.exact = False
        return Fraction(_ROOTS.sqrt(_decimal(value)))


def _decimal(value: Fraction) -> Decimal:
    return _ROOTS.divide(Decimal(value.numerator), Decimal(value.denominator))


def _applied(name: str, values: list[Fraction]) -> Fraction:
    fewest, most, function = _FUNCTIONS[name]
    if not fewest <= len(values) <= most:
        raise ToolRefused(f"expression: {name} does not take {len(values)} numbers.")
    return function(*values)


def _rounded(value: Fraction, places: Fraction = Fraction(0)) -> Fraction:
    if places.denominator != 1 or abs(places) > MAX_DIGITS:
        raise ToolRefused("expression: round takes a whole number of places.")
    return Fraction(round(value, int(places)))


_CONSTANTS = {
    "pi": Fraction("3.14159265358979323846264338327950288419716939937511"),
    "e": Fraction("2.71828182845904523536028747135266249775724709369996"),
}
_FUNCTIONS: dict[str, tuple[int, int, Callable[..., Fraction]]] = {
    "abs": (1, 1, abs),
    "ceil": (1, 1, lambda value: Fraction(math.ceil(value))),
    "floor": (1, 1, lambda value: Fraction(math.floor(value))),
    "max": (1, MAX_CHARS, max),
    "min": (1, MAX_CHARS, min),
    "round": (1, 2, _rounded),
    "sqrt": (1, 1, lambda value: value),  # in `_Walk`, which knows whether it was exact
}


def _written(value: Fraction, *, exact: bool) -> str:
    """In digits if they end, else rounded and, if it is short, as a fraction too."""
    if exact and value.denominator == 1:
        return str(value.numerator)
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    ended = Decimals(prec=2 * MAX_DIGITS).divide(Decimal(value.numerator), Decimal(value.denominator))
    if exact and rest == 1 and len(ended.as_tuple().digits) <= MAX_DIGITS:
        return f"{ended:f}"
    near = Decimals(prec=PLACES).divide(Decimal(value.numerator), Decimal(value.denominator))
    shown = format(near.normalize(Decimals(prec=PLACES)), "f" if -PLACES <= near.adjusted() <= PLACES else "")
    fraction = f" (exactly {value})" if exact and len(str(value)) <= PLACES else ""
    return f"about {shown}{fraction}"
