"""`diffuspec app`: serve the playground until it is interrupted."""

from __future__ import annotations

import argparse
import errno
import os
import socket
import sys

from diffuspec import assets, loopback
from diffuspec.cli.options import add_pair, asked_pair

ON_SPACE = "SPACE_ID" in os.environ
FIRST_PORT, PORTS = 7860, 100  # the first one asked for, and how many after it, where none is named


def has_display() -> bool:
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def port_number(text: str) -> int:
    """A port as the command line takes it."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 1 to 65535")
    return int(text)


def why_not(address: str, port: int | None) -> str | None:
    """Why this machine cannot listen there, as a sentence; None where it can. Without a port: any from 7860 on."""
    try:
        family, *_, found = socket.getaddrinfo(address, port or FIRST_PORT, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError):
        return f"Cannot listen on {address}: there is no such address. Try --host 127.0.0.1."
    last = None
    for number in [port] if port else range(FIRST_PORT, FIRST_PORT + PORTS):
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            if os.name == "posix":
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((found[0], number, *found[2:]))
                return None
            except PermissionError:
                return f"Cannot listen on port {number}: this user may not. Choose one above 1023 with --port."
            except OSError as error:
                last = error
    where = f"port {port}" if port else f"any port from {FIRST_PORT} to {FIRST_PORT + PORTS - 1}"
    if last.errno == errno.EADDRINUSE:
        return f"Cannot listen on {address}, {where}: it is in use. Choose another with --port."
    if last.errno == errno.EADDRNOTAVAIL:
        return f"Cannot listen on {address}: it is no address of this machine. Try --host 127.0.0.1."
    return f"Cannot listen on {address}, {where}: {last.strerror or last}."


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="0.0.0.0" if ON_SPACE else "127.0.0.1", help="address to listen on")
    parser.add_argument(
        "--port", type=port_number, metavar="P", help="port to listen on (default: 7860, or the next free one)"
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open the page in a browser")
    add_pair(parser)
    parser.add_argument(
        "--offer",
        metavar="NAME",
        action="append",
        default=[],
        help="where others share this server: another known pair that visitors may load, repeatable; alone, all are",
    )
    parser.set_defaults(command=serve)


def serve(args: argparse.Namespace) -> int:
    port = args.port or (FIRST_PORT if ON_SPACE else None)
    if problem := why_not(args.host, port):
        print(problem, file=sys.stderr)
        return 1
    loopback.never_proxied(args.host)
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # both are read when Gradio is imported
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from diffuspec.ui.page import build, launch_options
    from diffuspec.ui.shell.files import recorded
    from diffuspec.ui.shell.host import Host, Limits, shared_with_others
    from diffuspec.ui.shell.loader import known_pairs

    shared = ON_SPACE or shared_with_others(args.host)
    pairs = known_pairs(asked_pair(args), args.offer if shared else None)
    host = Host(pairs=pairs, own=not shared, limits=Limits() if shared else None)
    demo = build(host, *recorded(assets.traces()))
    host.warm_up()
    try:
        demo.launch(
            server_name=args.host,
            server_port=port,
            quiet=True,
            inbrowser=not (args.no_browser or ON_SPACE) and has_display(),
            prevent_thread_lock=True,
            **launch_options(),
        )
    except OSError as error:
        print(f"The server did not start on {args.host}: {error}", file=sys.stderr)
        return 1
    print(f"DiffuSpec Playground: {demo.local_url}", flush=True)
    demo.block_thread()
    return 0
