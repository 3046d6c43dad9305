"""Traces that other packages write, opened; not part of CI, whose files are written out in tests/unit/test_foreign.py.

    pip install xllamacpp pyarrow && pip install --no-deps --target PEERS specspecs==0.1.0
    PYTHONPATH=.:PEERS python tests/peers/traces.py [FOLDER]

llama.cpp's server answers with its own n-gram speculation; specspecs logs steps in both of its senses. Prints what each
trace tells, and leaves the files in FOLDER.
"""

from __future__ import annotations

import gc
import sys
import tempfile
from pathlib import Path

import httpx
import xllamacpp
from specspecs import SpecLogger

from diffuspec import Trace
from diffuspec.models.embedded import embedded_gguf

COUNT = "one two three four five six seven eight nine ten "
PROMPT = f"<|im_start|>user\nContinue: {COUNT * 3}<|im_end|>\n<|im_start|>assistant\n{COUNT}one two"
ASKED = dict(prompt=PROMPT, n_predict=60, temperature=0, return_tokens=True)
REPEATING = (([10, 11, 12], 2, 20), ([20, 21, 22], 1, 30), ([30, 31], 2, 40))
PLAIN = (([10, 11, 12], 2, 20), ([21, 22], 0, 30), ([31], 1, 40))


def llama(folder: Path) -> list[Path]:
    wanted = xllamacpp.CommonParams()
    wanted.model.path = str(embedded_gguf(lambda *_: None))
    wanted.n_ctx, wanted.n_parallel, wanted.fit_params, wanted.ui, wanted.verbosity = 2048, 1, False, False, 0
    wanted.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE]
    wanted.speculative.ngram_simple.size_n, wanted.speculative.ngram_simple.size_m = 2, 8
    server = xllamacpp.Server(wanted)
    address = f"{server.listening_address}/completion"
    streamed = httpx.post(address, json={**ASKED, "stream": True, "timings_per_token": True}, timeout=120)
    whole = httpx.post(address, json=ASKED, timeout=120)
    files = [folder / "llama-stream.txt", folder / "llama.json"]
    for file, answer in zip(files, (streamed, whole), strict=True):
        file.write_bytes(answer.content)
    stream, sums = map(Trace.open, files)
    tokens = whole.json()["tokens"]
    assert list(stream.token_ids) == tokens and stream.totals.drafted == sums.totals.drafted > 0
    assert stream.totals.accepted == sums.totals.accepted
    return files


def specspecs(folder: Path) -> list[Path]:
    made = []
    for name, steps in (("repeating", REPEATING), ("plain", PLAIN)):
        logger = SpecLogger(folder / name, "run", None)
        sequence = logger.register_sequence([5, 6, 7])
        for number, (draft, accepted, token) in enumerate(steps):
            logger.update_sequence(sequence, draft, accepted, token, len(draft), number)
        del logger
        gc.collect()  # writes the footers
        assert Trace.open(folder / name).token_ids == (10, 11, 20, 30, 31, 40)
        made.append(folder / name)
    return made


if __name__ == "__main__":
    into = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    into.mkdir(parents=True, exist_ok=True)
    for path in [*llama(into), *specspecs(into)]:
        trace = Trace.open(path)
        print(f"{path.name}: {trace.new_tokens} tokens, {trace.totals.steps} steps. {trace.origin.sentence}")
