"""The exceptions that Keras' own ModelCheckpoint raises, word for word."""

from __future__ import annotations

import builtins
import contextlib
from collections.abc import Iterator

from keepbest.errors import InvalidArgument
from keepbest.types import Decision

# The only exceptions that a FAIL may name: those that str.format and Keras raise for a template.
_EXCEPTIONS = {"AttributeError", "IndexError", "KeyError", "OSError", "OverflowError", "TypeError", "ValueError"}
_DIRECTORY = "Please specify a non-directory filepath for ModelCheckpoint. Filepath used is an existing directory:"


def exception_of(decision: Decision, template: str, filepath: str) -> Exception:
    """The exception for a decision to fail.

    Args:
        decision: of the server, which knows the template only.
        template: as the server has it.
        filepath: as the training script has it, which Keras names.
    """
    kind = getattr(builtins, decision.error_type) if decision.error_type in _EXCEPTIONS else InvalidArgument
    text = decision.reason_text.replace(f'filepath: "{template}"', f'filepath: "{filepath}"', 1)
    error: Exception = kind(text)
    return error


@contextlib.contextmanager
def directories_refused(shown: str) -> Iterator[None]:
    """Raise what Keras raises where a directory is in the way of a file.

    Raises:
        OSError: names the path as Keras names it.
    """
    try:
        yield
    except IsADirectoryError:
        raise OSError(f"{_DIRECTORY} {shown}") from None
    except OSError as error:
        if error.args and "is a directory" in str(error.args[0]).lower():
            raise OSError(f"{_DIRECTORY} f{shown}") from None  # Keras has this `f` too
        raise
