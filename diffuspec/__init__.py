"""Speculative decoding with a diffusion drafter (DiffuSpec, arXiv 2510.02358).

from diffuspec import DiffuSpec, Settings, load_pair

pair = load_pair("embedded")
trace = DiffuSpec(pair, Settings(k_min=4, k_max=12)).run("Why is the sky blue?")
print(trace.text, trace.tokens_per_step)
"""

import importlib

from diffuspec.errors import DiffuSpecError
from diffuspec.settings import Settings
from diffuspec.trace.model import Trace

__version__ = "0.2.0"  # in every trace and result that this program writes
__all__ = [
    "MASKED",
    "DiffuSpec",
    "DiffuSpecError",
    "DiffusionDrafter",
    "Settings",
    "Trace",
    "diffuspec_generate",
    "load_pair",
    "record_assisted",
]

# Looking at a trace must not wait for torch.
_LATE = {
    "DiffuSpec": "diffuspec.engine",
    "load_pair": "diffuspec.models.pair",
    "diffuspec_generate": "diffuspec.hf.generate",
    "record_assisted": "diffuspec.hf.assisted",
    "DiffusionDrafter": "diffuspec.models.drafter",
    "MASKED": "diffuspec.models.drafter",
}


def __getattr__(name: str):
    if name in _LATE:
        return getattr(importlib.import_module(_LATE[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
