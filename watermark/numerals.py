"""Exact numbers as text: what records hold, and what people read."""

from __future__ import annotations

import re
from fractions import Fraction
from math import floor, log10

from watermark.errors import RecordError

_NUMBER = re.compile(
    r"\A(?:[0-9]{1,1000}/[0-9]{1,1000}|[0-9]{1,30}(?:\.[0-9]{1,30})?(?:[eE][-+]?[0-9]{1,2})?)\Z"
)


def fraction_text(value: Fraction) -> str:
    """ "numerator/denominator", exactly."""
    return f"{value.numerator}/{value.denominator}"


def parse_fraction(text: object, path: str) -> Fraction:
    """A decimal ("1e-6") or "numerator/denominator" of bounded size.

    Raises:
        RecordError: it is neither.
    """
    if not isinstance(text, str) or not _NUMBER.match(text):
        raise RecordError(f'{path} is not a number written as text, such as "1e-6" or "1/1000000"')
    try:
        return Fraction(text)
    except ZeroDivisionError:
        raise RecordError(f"{path} divides by zero") from None


def decimal_text(value: Fraction) -> str:
    """Three significant digits, "8.80e-10"; exact rationals far outside float's range are fine."""
    if value == 0:
        return "0"
    exponent = _exponent(value)
    mantissa = value / Fraction(10) ** exponent
    digits = floor(mantissa * 100 + Fraction(1, 2))
    if digits >= 1000:
        digits, exponent = 100, exponent + 1
    if -3 <= exponent <= 3:
        return f"{float(value):.4g}"
    return f"{digits // 100}.{digits % 100:02d}e{exponent:+03d}"


def _exponent(value: Fraction) -> int:
    guess = floor(log10(2) * (value.numerator.bit_length() - value.denominator.bit_length()))
    while Fraction(10) ** guess > value:
        guess -= 1
    while Fraction(10) ** (guess + 1) <= value:
        guess += 1
    return guess
