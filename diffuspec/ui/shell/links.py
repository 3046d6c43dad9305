"""Links that restore a prompt, settings or a recorded trace: the query string of the page's address.

?prompt=Why+is+the+sky+blue%3F&k_max=12&lam=0.4      a prompt, and knobs that differ from the defaults
?trace=code&step=5&phase=verify                      a recorded trace, opened at a step (counted from 1)
&present=1                                           in the presenter view (read by the page alone)
&embed=1, &embed=lattice                             the player or one picture alone, for other pages (likewise)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from diffuspec.errors import DiffuSpecError, PromptError, TraceError
from diffuspec.settings import Settings

LONGEST_PROMPT = 6000  # characters; browsers and proxies cut addresses not far beyond
PHASES = ("mask", "lattice", "search", "verify", "commit")


@dataclass(frozen=True)
class Link:
    """What an address asks for. settings: knobs by name, as text; step: from 1; problem: what could not be used."""

    prompt: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    trace: str | None = None
    step: int | None = None
    phase: str = "verify"
    problem: DiffuSpecError | None = None

    def __bool__(self) -> bool:
        return bool(self.prompt is not None or self.settings or self.trace or self.problem)


def address(prompt: str, settings: Settings) -> str:
    """The query string of a prompt and the knobs that differ from the defaults."""
    usual = Settings().to_dict()
    changed = {name: value for name, value in settings.to_dict().items() if value != usual[name]}
    if len(prompt) > LONGEST_PROMPT:
        raise PromptError(f"This prompt is too long for a link: at most {LONGEST_PROMPT} characters.")
    return "?" + urlencode({"prompt": prompt, **changed})


def read(query: Mapping[str, str]) -> Link:
    """What an untrusted query string asks for: what makes no sense becomes `problem`, foreign names are ignored."""
    try:
        prompt = query.get("prompt")
        if prompt is not None and len(prompt) > LONGEST_PROMPT:
            raise PromptError(f"The prompt in the address is too long: at most {LONGEST_PROMPT} characters.")
        knobs = {name: query[name] for name in Settings.knobs() if name in query}
        settings = Settings.from_mapping(knobs)
        step, phase = query.get("step"), query.get("phase", "verify")
        if step is not None and not (step.isascii() and step.isdigit() and 0 < len(step) < 6):
            raise TraceError("The step in the address is not a whole number.")
        if phase not in PHASES:
            raise TraceError(f"The phase in the address is not one of {', '.join(PHASES)}.")
        values = settings.to_dict()
        return Link(prompt, {name: values[name] for name in knobs}, query.get("trace"), step and int(step), phase)
    except DiffuSpecError as error:
        return Link(problem=error)
