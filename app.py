"""The playground. `python app.py [--host H] [--port P] [--no-browser]`; also the entry point of a Space."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

from diffuspec.ui.page import build, launch_options  # noqa: E402
from diffuspec.ui.shell.files import recorded  # noqa: E402
from diffuspec.ui.shell.host import Host  # noqa: E402

ON_SPACE = "SPACE_ID" in os.environ
TRACES = Path(__file__).parent / "assets" / "traces"

host = Host()
demo = build(host, *recorded(TRACES))


def has_display() -> bool:
    return sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def main() -> int:
    parser = argparse.ArgumentParser(description="DiffuSpec Playground: walk through what a diffusion drafter did.")
    parser.add_argument("--host", default="0.0.0.0" if ON_SPACE else "127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, help="port to listen on (default: 7860, or the next free one)")
    parser.add_argument("--no-browser", action="store_true", help="do not open the page in a browser")
    args = parser.parse_args()
    host.warm_up()
    try:
        demo.launch(
            server_name=args.host, server_port=args.port or (7860 if ON_SPACE else None), quiet=True,
            inbrowser=not (args.no_browser or ON_SPACE) and has_display(), prevent_thread_lock=True,
            **launch_options(),
        )  # fmt: skip
    except OSError:
        port = f"port {args.port}" if args.port else "any port from 7860 on"
        print(f"Cannot listen on {args.host}, {port}: it is in use. Choose another with --port.", file=sys.stderr)
        return 1
    print(f"DiffuSpec Playground: {demo.local_url}", flush=True)
    demo.block_thread()
    return 0


if __name__ == "__main__":
    sys.exit(main())
