"""What the page is launched with."""

from __future__ import annotations

import importlib.util

import pytest

from diffuspec.ui.page import launch_options


@pytest.mark.parametrize("installed", [True, False])
def test_the_endpoints_are_mcp_tools_only_where_mcp_is_installed(monkeypatch, installed):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: installed or None if name == "mcp" else real(name, *rest)
    )
    assert launch_options()["mcp_server"] is installed
