"""The lines of the table: what was measured in each round, its medians, its ratios, and whether they meet the goal."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

# What a line's values are: rates, of which more is better and ours are divided by theirs; times, of which less is
# better and theirs are divided by ours; or costs, of which less is better and ours are divided by theirs.
Kind = Literal["rate", "time", "cost"]


@dataclass
class Line:
    """Ours beside another one's, round by round.

    Attributes:
        theirs: empty: ours is compared with the goal itself.
        at_least: the goal for the ratio.
        at_most: the goal for the ratio; without theirs, for ours.
    """

    what: str
    kind: Kind
    unit: str
    ours: list[float]
    peer: str = ""
    theirs: list[float] = field(default_factory=list)
    at_least: float | None = None
    at_most: float | None = None

    def ratios(self) -> list[float]:
        """Of each round."""
        pairs = zip(self.ours, self.theirs, strict=bool(self.theirs))
        return [theirs / ours if self.kind == "time" else ours / theirs for ours, theirs in pairs]

    def is_met(self) -> bool | None:
        """Whether the median meets the goal; None: there is none."""
        value = statistics.median(self.ratios() or self.ours)
        if self.at_least is not None:
            return value >= self.at_least
        return None if self.at_most is None else value <= self.at_most

    def row(self) -> str:
        """A row of the table."""
        met = {None: "", True: "met", False: "**missed**"}[self.is_met()]
        ratio = _cell(self.ratios(), "") if self.theirs else ""
        theirs = _cell(self.theirs, self.unit) if self.theirs else ""
        cells = [self.what, _cell(self.ours, self.unit), self.peer, theirs, ratio, self._goal(), met]
        return f"| {' | '.join(cells)} |"

    def _goal(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.at_least:g}"
        if self.at_most is None:
            return ""
        return f"≤ {self.at_most:g}" + ("" if self.theirs else f" {self.unit}")

    def as_json(self) -> dict[str, Any]:
        """All single values."""
        return {**self.__dict__, "ratios": self.ratios(), "met": self.is_met()}


class Book:
    """All lines, printed as they come."""

    HEAD = "| what | Keepbest | beside | its figure | ratio | goal | |\n|---|---:|---|---:|---:|---:|---|"

    def __init__(self, rounds: int) -> None:
        """Begin without lines."""
        self.rounds = rounds
        self.lines: list[Line] = []

    def add(self, *lines: Line) -> None:
        """Note lines, and print them."""
        for line in lines:
            self.lines.append(line)
            print(line.row(), flush=True)

    def in_turns(self, sides: Sequence[Callable[[], dict[str, float]]]) -> dict[str, list[float]]:
        """Run the sides one after the other, each round beginning with another one. The first round only warms up.

        Returns:
            The values of each round, by the names that the sides give them.
        """
        seen: dict[str, list[float]] = {}
        for number in range(self.rounds + 1):
            first = number % len(sides)
            for side in (*sides[first:], *sides[:first]):
                for name, value in side().items():
                    if number:
                        seen.setdefault(name, []).append(value)
        return seen


def _cell(values: list[float], unit: str) -> str:
    middle, least, most = statistics.median(values), min(values), max(values)
    space = f" {unit}" if unit else ""
    return f"{_figure(middle)}{space} ({_figure(least)}-{_figure(most)})"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
