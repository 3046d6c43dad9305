"""The search stage of a step, compiled by numba when a function of it is first asked for.

A trace is looked at without a search, and numba alone takes longer to import than all that a trace needs.
"""

import importlib

LONGEST = 4  # the longest suffix that a copy is looked up by
COPIED, FOLLOWER = -1, -2  # the row of a token that is no kept cell: copied, or an n-gram's follower


def __getattr__(name: str):
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("diffuspec.method.compiled.search"), name)
