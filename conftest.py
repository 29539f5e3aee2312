"""Numbers in recorded notebooks are compared as numbers: nbval's text comparison, with a tolerance."""

from __future__ import annotations

import math
import re

NUMBER = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?")
RELATIVE, ABSOLUTE = 1e-4, 1e-6


class Numbers(str):
    """Text that equals other text when the words agree exactly and the numbers within the tolerance."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str):
            return NotImplemented
        if NUMBER.sub("#", self) != NUMBER.sub("#", other):
            return False
        pairs = zip(NUMBER.findall(self), NUMBER.findall(other), strict=True)
        return all(math.isclose(float(a), float(b), rel_tol=RELATIVE, abs_tol=ABSOLUTE) for a, b in pairs)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


def pytest_configure() -> None:
    try:
        from nbval.plugin import IPyNbCell
    except ImportError:
        return
    exact = IPyNbCell.sanitize

    def tolerant(self: object, text: object) -> object:
        cleaned = exact(self, text)
        return Numbers(cleaned) if isinstance(cleaned, str) else cleaned

    IPyNbCell.sanitize = tolerant
