"""The search stage of a step, compiled by numba when a function of it is first asked for.

A step can spare about half a millisecond for all of this, and the model pass before it has emptied the caches. A trace
is looked at without a search, and numba alone takes longer to import than all that a trace needs: `options` is free of
it, and the other files are imported at the first use of what they hold.
"""

import importlib

_PLACES = {
    "pruned": "columns",
    "look_up": "proxies",
    "count": "proxies",
    "remember": "copies",
    "look_back": "copies",
    "look_back_now": "copies",
    "search_beam": "beam",
    "search_exact": "exact",
    "grow_tree": "tree",
}


def __getattr__(name: str):
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault(name, getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name))
