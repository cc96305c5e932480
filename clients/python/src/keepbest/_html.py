"""HTML for notebooks: tables and a curve, without scripts, styles of a page or anything from elsewhere.

Colours are the notebook's own, or such as can be seen on light and on dark. Whatever is given is escaped and cut.
"""

from __future__ import annotations

import html
import math
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

from keepbest._curve import Curve, Moment

# Longer texts are cut: names and reasons of others stand in tables.
_TEXT_CHARACTERS = 200
# Of a curve; more than its width has pixels would show nothing more.
_POINTS = 300
_WIDTH, _HEIGHT = 480, 150
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 12, 26
_LINE, _MARK = "#3b82f6", "#d97706"
_CELL = "padding:2px 10px 2px 0;text-align:left;vertical-align:top;border:0;background:transparent"
_RULE = "border-bottom:1px solid rgba(128,128,128,0.4)"


def text(value: object) -> str:
    """Escaped, cut, and without characters that control."""
    shown = str(value)
    if len(shown) > _TEXT_CHARACTERS:
        shown = shown[: _TEXT_CHARACTERS - 1] + "…"
    shown = "".join("\ufffd" if unicodedata.category(char) in ("Cc", "Cf", "Cs") else char for char in shown)
    return html.escape(shown, quote=True)


def number(value: float) -> str:
    """For people: `0.2134`."""
    return f"{value:.5g}"


def heading(kind: str, name: str) -> str:
    """What it is, and what it is called."""
    return f'<div style="margin:2px 0 6px 0"><span style="opacity:0.65">{text(kind)}</span> <b>{text(name)}</b></div>'


def note(sentence: str) -> str:
    """A line that is less important."""
    return f'<div style="opacity:0.65;margin-top:4px">{text(sentence)}</div>'


def facts(rows: Iterable[tuple[str, object]]) -> str:
    """A line for each fact; those that are empty are left out."""
    lines = [
        f'<tr style="background:transparent"><td style="{_CELL};opacity:0.65">{text(name)}</td>'
        f'<td style="{_CELL}">{text(value)}</td></tr>'
        for name, value in rows
        if value not in ("", None)
    ]
    return f'<table style="border-collapse:collapse;border:0;margin:0"><tbody>{"".join(lines)}</tbody></table>'


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table with a head."""
    head = "".join(f'<th style="{_CELL};{_RULE};font-weight:bold">{text(it)}</th>' for it in columns)
    body = "".join(
        '<tr style="background:transparent">' + "".join(f'<td style="{_CELL}">{text(it)}</td>' for it in row) + "</tr>"
        for row in rows
    )
    return (
        '<div style="overflow-x:auto"><table style="border-collapse:collapse;border:0;margin:0">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def block(*parts: str) -> str:
    """All of it, in the notebook's colours."""
    return f'<div style="color:inherit;font-size:0.95em">{"".join(parts)}</div>'


def curve(of: Curve, best: float | None) -> str:
    """The curve with a dot for each save, and a ring around the best; nothing if there is no point.

    Args:
        of: the points.
        best: the value to beat, as a line.
    """
    points = of.points(_POINTS)
    if not points:
        return ""
    saved = of.saved
    levels = [value for _, value in points] + list(of.levels.values())
    if best is not None and math.isfinite(best):
        levels.append(best)
    low, high = min(levels), max(levels)
    place_of = _places([moment for moment, _ in points], of.is_of_batches)

    def y_of(value: float) -> float:
        # Halved before they are subtracted, for doubles end at 1.8e308.
        span = high / 2 - low / 2
        part = (value / 2 - low / 2) / span if span > 0 else 0.5
        return _TOP + (1 - part) * (_HEIGHT - _TOP - _BOTTOM)

    line = " ".join(f"{place_of(moment):.1f},{y_of(value):.1f}" for moment, value in points)
    parts = [
        f'<polyline points="{line}" fill="none" stroke="{_LINE}" stroke-width="1.5" stroke-linejoin="round"/>',
        _dot(place_of(points[-1][0]), y_of(points[-1][1]), 2, _LINE, "now"),
    ]
    if best is not None and math.isfinite(best):
        y = y_of(best)
        parts.insert(0, _rule(y, "4 3", 0.6))
    best_moment = of.best[0] if of.best is not None else None
    levels_saved = of.levels
    for moment, version in saved.items():
        if moment in levels_saved:
            x, y = place_of(moment), y_of(levels_saved[moment])
            parts.append(_dot(x, y, 3.5, _MARK, f"v{version}: {number(levels_saved[moment])}"))
            if moment == best_moment:
                parts.append(
                    f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="none" stroke="{_MARK}" stroke-width="1.5"/>'
                )
    first, last = points[0][0], points[-1][0]
    parts += [
        _rule(_HEIGHT - _BOTTOM, "", 0.4),
        _label(_LEFT - 6, y_of(high) + 4, number(high), "end"),
        _label(_LEFT - 6, y_of(low) + 4, number(low), "end") if high > low else "",
        _label(_LEFT, _HEIGHT - 8, _moment(first), "start"),
        _label(_WIDTH - _RIGHT, _HEIGHT - 8, _moment(last), "end") if last != first else "",
    ]
    title = f"{of.metric} over {'batches' if of.is_of_batches else 'epochs'}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" '
        f'style="max-width:100%;color:inherit" role="img"><title>{text(title)}</title>{"".join(parts)}</svg>'
    )


def _places(moments: Sequence[Moment], is_of_batches: bool) -> Callable[[Moment], float]:
    """Where moments lie: epochs by their number, batches one after the other."""
    width = _WIDTH - _LEFT - _RIGHT
    first = 0 if is_of_batches else moments[0][0]
    span = len(moments) - 1 if is_of_batches else moments[-1][0] - first

    def place_of(moment: Moment) -> float:
        position = bisect_left(moments, moment) if is_of_batches else moment[0] - first
        return _LEFT + width * (min(max(position / span, 0.0), 1.0) if span > 0 else 0.5)

    return place_of


def _moment(moment: Moment) -> str:
    epoch, batch = moment
    return f"epoch {epoch}" if batch < 0 else f"epoch {epoch}, batch {batch}"


def _dot(x: float, y: float, radius: float, colour: str, title: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"><title>{text(title)}</title></circle>'


def _rule(y: float, dashes: str, opacity: float) -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="currentColor" '
        f'stroke-opacity="{opacity}"{dashed}/>'
    )


def _label(x: float, y: float, shown: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="11" font-family="inherit" '
        f'fill="currentColor">{text(shown)}</text>'
    )
