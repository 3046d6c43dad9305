"""Words for what went wrong."""

from __future__ import annotations

import logging

from diffuspec.errors import DiffuSpecError

log = logging.getLogger("diffuspec")
UNEXPECTED = "Something went wrong on the server; its log has the details. What was made so far stays here."


def explain(error: BaseException) -> str:
    """Words for the person at the keyboard; the rest goes to the log."""
    if isinstance(error, DiffuSpecError):
        return str(error)
    log.error("unexpected error in the playground", exc_info=error)
    return UNEXPECTED
