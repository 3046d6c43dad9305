"""llama.cpp's real server as a process that a test starts, kills and starts again at the same port."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from diffuspec.measure import llama_server


class LlamaProcess:
    """context: tokens a slot; one thread: with more of them llama.cpp attends to one row in other bits than to several
    once the text is longer than 256 tokens (flash attention over split keys)."""

    def __init__(self, gguf: Path, context: int, slots: int):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._arguments = [str(gguf), str(context), "1", str(slots), str(self.port)]
        self.start()

    def start(self) -> None:
        program = [sys.executable, llama_server.__file__, *self._arguments]
        self._process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert any(line.startswith(llama_server.LISTENING) for line in self._process.stdout)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
