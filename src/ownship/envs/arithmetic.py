"""A calculator that untrusted text may be handed to: four operations on decimal numbers, exactly, and nothing else."""

from __future__ import annotations

import ast
import re
from fractions import Fraction

_LONGEST = 200  # characters
_LARGEST = 10**30  # of numerators and denominators
_ALPHABET = re.compile(r"[0-9+\-*/(). ]*\Z")  # without letters and quotes there are no names, calls of them, or strings
_PLACES = 6


def calculate(expression: str) -> str:
    """`3*17 + 2*(9 - 4.5)` → `60`: exact, or rounded to six places. Raises ValueError, which says why, for anything else."""
    if len(expression) > _LONGEST:
        raise ValueError(f"the expression is longer than {_LONGEST} characters")
    if not _ALPHABET.match(expression):
        raise ValueError("only numbers, + - * / and brackets are understood")
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, MemoryError, RecursionError):  # the last two: too many brackets
        raise ValueError("this is no arithmetic") from None
    return _written(_value(tree))


def _value(node: ast.expr) -> Fraction:
    """Walks over the syntax tree, at most as deep as the text is long. Raises ValueError for a node that is not listed here."""
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return _bounded(Fraction(str(number)) if number < _LARGEST else Fraction(_LARGEST))
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            return -_value(inner)
        case ast.UnaryOp(op=ast.UAdd(), operand=inner):
            return _value(inner)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _bounded(_value(left) + _value(right))
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _bounded(_value(left) - _value(right))
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _bounded(_value(left) * _value(right))
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            if not (below := _value(right)):
                raise ValueError("division by zero")
            return _bounded(_value(left) / below)
    raise ValueError("only numbers, + - * / and brackets are understood")


def _bounded(value: Fraction) -> Fraction:
    if abs(value.numerator) >= _LARGEST or value.denominator >= _LARGEST:
        raise ValueError("the numbers are too large")
    return value


def _written(value: Fraction) -> str:
    """As a decimal, without zeros at its end."""
    units = round(value * 10**_PLACES)
    whole, part = divmod(abs(units), 10**_PLACES)
    digits = f"{whole}.{part:0{_PLACES}}".rstrip("0").rstrip(".")
    return f"-{digits}" if units < 0 else digits
