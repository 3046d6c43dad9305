"""This machine talking to itself: never by way of a proxy.

Behind a proxy (`http_proxy`, as companies and universities set it) every HTTP client of the process sends requests for
127.0.0.1 to another machine, whose 127.0.0.1 is not ours, unless `no_proxy` says otherwise.
"""

from __future__ import annotations

import os
import urllib.request
from collections.abc import MutableMapping

LOOPBACK = ("localhost", "127.0.0.1", "::1")
EVERYWHERE = ("0.0.0.0", "::", "")  # addresses to listen on, none to ask


def never_proxied(*hosts: str, environment: MutableMapping[str, str] = os.environ) -> None:
    """Add loopback and these own addresses to `no_proxy`, for all clients of this process and of those it starts."""
    known = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    names = [name.strip() for name in known.split(",") if name.strip()]
    if "*" in names:
        return
    own = [host.strip("[]") for host in hosts if host.strip("[]") not in EVERYWHERE]
    value = ",".join(dict.fromkeys([*names, *LOOPBACK, *own]))
    environment["no_proxy"] = environment["NO_PROXY"] = value


# An opener for addresses of this machine, whatever the environment says.
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
