"""Dollars as people write them ⇄ integers of micro-dollars."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from ownship.errors import UserError

DOLLAR = 1_000_000
_MOST = 10**9  # dollars: far below what 64 bits hold


def parse(said: str) -> int:
    """"12.50" or "$12.50" → 12_500_000. Raises UserError for what is no amount, is negative or has more than six decimals."""
    try:
        micro = Decimal(said.strip().removeprefix("$").replace("_", "")) * DOLLAR
    except InvalidOperation:
        raise UserError(f"{said!r} is not an amount of money; 12.50 is one") from None
    if not micro.is_finite() or not 0 <= micro <= _MOST * DOLLAR or micro != int(micro):
        raise UserError(f"{said!r}: an amount is between 0 and {_MOST:,} dollars and has at most six decimals")
    return int(micro)


def dollars(micro: int) -> str:
    """12_500_000 → "$12.50". Never rounded: $0.000002 has its six decimals."""
    whole, rest = divmod(abs(micro), DOLLAR)
    decimals = f"{rest:06d}".rstrip("0").ljust(2, "0")
    return f"{'-' if micro < 0 else ''}${whole:,}.{decimals}"
