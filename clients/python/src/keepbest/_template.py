"""What can be known of a template before there is a value: whether it can ever be printed, and what is misspelt."""

from __future__ import annotations

import string
from collections.abc import Iterable
from typing import Any, NamedTuple

from keepbest._near import USUAL_METRICS, near_miss

# The longest template that the contract allows.
_TEMPLATE_BYTES = 1_024


class Placeholder(NamedTuple):
    """`{name!conversion:spec}`; a spec with placeholders in it is kept as it is written."""

    name: str
    conversion: str
    spec: str


def placeholders(template: str) -> list[Placeholder]:
    """The placeholders of a template in their order, also those in formats; none if it cannot be parsed."""
    found = []
    try:
        for _, name, spec, conversion in string.Formatter().parse(template):
            if name is not None:
                found.append(Placeholder(name, conversion or "", spec or ""))
                found += placeholders(spec or "")
    except ValueError:
        return []
    return found


def check_template(template: str) -> None:
    """Refuse what can never be printed.

    Raises:
        ValueError: it is too long, a brace is not closed, a placeholder has no plain name, or its format fits no value.
    """
    if len(template.encode(errors="replace")) > _TEMPLATE_BYTES:
        raise ValueError(f"filepath `{template[:64]}…` has more than {_TEMPLATE_BYTES} bytes behind its directory")
    try:
        list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(
            f"filepath `{template}` is no template: {error}; write `{{{{` and `}}}}` for the characters themselves"
        ) from None
    for name, conversion, spec in placeholders(template):
        if not name or name.isdigit() or "." in name or "[" in name:
            raise ValueError(
                f"field `{{{name}}}` of filepath `{template}` is no plain name; write the name of what it prints, as "
                "`{epoch}` or `{val_loss}`"
            )
        values: list[Any] = ["text"] if conversion else [1] if name == "epoch" else [1, 1.5, "text"]
        if "{" not in spec and not any(_prints(value, spec) for value in values):
            raise ValueError(
                f"field `{name}` cannot be printed with `{spec}` in filepath `{template}`; use a format such as `02d` "
                "or `.4f`"
            )


def _prints(value: Any, spec: str) -> bool:
    try:
        format(value, spec)
    except ValueError:
        return False
    return True


def misspelt(template: str, known: Iterable[str], monitor: str) -> dict[str, str]:
    """The placeholders that are called almost as something known, and what that is called.

    Args:
        template: of the path.
        known: names that have values.
        monitor: what the strategy watches. It may be the slip itself, so it corrects no name that metrics usually have.
    """
    names = list(known)
    near = {
        field.name: near_miss(field.name, names if field.name in USUAL_METRICS else [*names, monitor])
        for field in placeholders(template)
    }
    return {name: meant for name, meant in near.items() if meant is not None}


def never_reported(template: str, *, by_epochs: bool) -> list[str]:
    """What is wrong with placeholders whose values are not there at the moments of saves, as Keras reports them."""
    names = {field.name for field in placeholders(template)}
    moment = "an epoch" if by_epochs else "a batch"
    missing = names & {"batch"} if by_epochs else {name for name in names if name.startswith("val_")}
    return [
        f"`{{{name}}}` has no value at the end of {moment}, so the first save will fail" for name in sorted(missing)
    ]


def misspelling_text(template: str, found: dict[str, str]) -> str:
    """A warning for what `misspelt` found."""
    told = "; ".join(
        f"nothing known is called `{{{name}}}`, did you mean `{{{near}}}`?" for name, near in found.items()
    )
    return f"filepath `{template}`: {told}"
