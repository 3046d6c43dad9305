"""llama.cpp's server in a process of its own, which ends when its standard input does.

In one process with torch, the OpenMP threads of both count together; there are then more than cores, and OpenMP sends
them to sleep at every wait: llama.cpp would be measured slower than it is.

python llama_server.py GGUF CONTEXT THREADS [SLOTS [PORT]]

Its address is the last word of the line that begins with LISTENING. CONTEXT: tokens of each of SLOTS texts that are
read side by side, each with a cache of its own (1); PORT: any that is free.
"""

from __future__ import annotations

import os
import sys

LISTENING = "listening:"


def main(path: str, context: int, threads: int, slots: int = 1, port: int = 0) -> None:
    import xllamacpp

    wanted = xllamacpp.CommonParams()
    wanted.model.path = path
    wanted.n_ctx, wanted.n_parallel, wanted.fit_params, wanted.kv_unified = context * slots, slots, False, False
    if port:
        wanted.port = port
    wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = threads
    wanted.cache_prompt, wanted.ui, wanted.verbosity = False, False, 0
    server = xllamacpp.Server(wanted)
    print(f"\n{LISTENING} {server.listening_address}", flush=True)
    os.dup2(2, 1)  # nobody reads on: what llama.cpp still has to say must not fill the pipe
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
