"""Loopback is asked directly, whatever proxy is set: by httpx, by urllib, and by the app."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from diffuspec import loopback

ROOT = Path(__file__).parents[2]
CLOSED = "http://127.0.0.1:9"  # no proxy answers there


@pytest.fixture
def here():
    """The address of a server on this machine that says "here"."""

    class Here(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"here")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Here)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def proxied(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        for case in (name, name.upper()):
            monkeypatch.setenv(case, CLOSED)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")


def test_the_proxy_of_these_tests_is_one_that_fails(here, proxied):
    with pytest.raises(httpx.ConnectError):
        httpx.get(here)


def test_clients_of_the_process_ask_loopback_directly(here, proxied):
    loopback.never_proxied()
    assert httpx.get(here).text == "here"
    assert httpx.get(here.replace("127.0.0.1", "localhost")).text == "here"


def test_our_own_client_does_whatever_the_environment_says(here, proxied):
    assert loopback.direct.open(here).read() == b"here"


@pytest.mark.parametrize(
    "before, hosts, after",
    [
        ({}, (), "localhost,127.0.0.1,::1"),
        ({"NO_PROXY": "intranet, 10.0.0.0/8"}, (), "intranet,10.0.0.0/8,localhost,127.0.0.1,::1"),
        ({"no_proxy": "localhost"}, ("0.0.0.0",), "localhost,127.0.0.1,::1"),
        ({}, ("192.168.1.5",), "localhost,127.0.0.1,::1,192.168.1.5"),
        ({}, ("[fe80::1]", "::"), "localhost,127.0.0.1,::1,fe80::1"),
    ],
)
def test_what_no_proxy_says_afterwards(before, hosts, after):
    environment = dict(before)
    loopback.never_proxied(*hosts, environment=environment)
    assert environment["no_proxy"] == environment["NO_PROXY"] == after


def test_a_no_proxy_for_everything_is_left_alone():
    environment = {"no_proxy": "*"}
    loopback.never_proxied("192.168.1.5", environment=environment)
    assert environment == {"no_proxy": "*"}


@pytest.mark.slow
def test_the_app_starts_behind_a_proxy():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k.lower() != "no_proxy"}
    environment |= {"http_proxy": CLOSED, "HTTP_PROXY": CLOSED, "DIFFUSPEC_WHEEL": "/nowhere"}
    process = subprocess.Popen(
        [sys.executable, "app.py", "--no-browser", "--port", str(port)],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        watchdog = threading.Timer(120, process.kill)
        watchdog.start()
        said = []
        for line in process.stdout:
            said.append(line)
            if "DiffuSpec Playground: http" in line:
                break
        assert f"DiffuSpec Playground: http://127.0.0.1:{port}" in "".join(said), "".join(said)
        started = time.monotonic()
        assert httpx.get(f"http://127.0.0.1:{port}/", trust_env=False, timeout=60).status_code == 200, started
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
