"""Where a session stands with the server: five states, and the one table of what leads from each to which."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """Where a session stands."""

    CONNECTED = "connected"  # what was reported is decided, and what was decided is saved
    AWAY = "away"  # the server gives no answer: events and models wait here
    BEHIND = "behind"  # the server answers, but events, models or saves of before still wait here
    FENCED = "fenced"  # another process reports in this attempt or in a newer one: nothing is sent any more
    ENDED = "ended"  # the training is over


class Happening(Enum):
    """What a session meets."""

    CAUGHT_UP = "nothing waits any more"
    ANSWERED = "the server answers, and something still waits"
    NOT_NOW = "the server answers that it cannot now: its disk is full, it has too much to do"
    NO_ANSWER = "no server answers"
    OVERTAKEN = "another process took over"
    CLOSED = "the training is over"


def _row(*targets: State) -> dict[Happening, State]:
    return dict(zip(Happening, targets, strict=True))


# The columns stand in the order of `Happening`: caught up, answered, not now, no answer, overtaken, closed.
TRANSITIONS: dict[State, dict[Happening, State]] = {
    State.CONNECTED: _row(
        State.CONNECTED, State.BEHIND, State.BEHIND, State.AWAY, State.FENCED, State.ENDED
    ),
    State.AWAY: _row(
        State.CONNECTED, State.BEHIND, State.BEHIND, State.AWAY, State.FENCED, State.ENDED
    ),
    State.BEHIND: _row(
        State.CONNECTED, State.BEHIND, State.BEHIND, State.AWAY, State.FENCED, State.ENDED
    ),
    State.FENCED: _row(
        State.FENCED, State.FENCED, State.FENCED, State.FENCED, State.FENCED, State.ENDED
    ),
    State.ENDED: _row(
        State.ENDED, State.ENDED, State.ENDED, State.ENDED, State.ENDED, State.ENDED
    ),
}  # fmt: skip

# In these a step that needs the server may be tried.
SENDING = frozenset({State.CONNECTED, State.AWAY, State.BEHIND})
