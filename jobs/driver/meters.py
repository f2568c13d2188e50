"""Which meters a source takes: shell wildcards, as in ceilometer's YAML files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate
from typing import Annotated

from pydantic import AfterValidator, Field


def _names_one(meter: str) -> str:
    if meter == "!":
        raise ValueError("expected a meter after the !")
    return meter


Wildcard = Annotated[str, Field(min_length=1), AfterValidator(_names_one)]
"""Of a model: a wildcard that takes meters, or excludes them after a ``!``."""


class Meters:
    """Shell wildcards; those with a ``!`` exclude. With exclusions only, everything else matches."""

    def __init__(self, meters: Iterable[str]) -> None:
        given = list(meters)
        included = [meter for meter in given if not meter.startswith("!")] or ["*"]
        self._included = _any_of(included)
        self._excluded = _any_of([meter[1:] for meter in given if meter.startswith("!")])
        self._known: dict[str, bool] = {}

    def match(self, meter: str) -> bool:
        """Return whether the source takes this meter."""
        if meter not in self._known:
            self._known[meter] = bool(self._included.match(meter)) and not self._excluded.match(meter)
        return self._known[meter]


def _any_of(wildcards: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(translate, wildcards)) or r"(?!)")
