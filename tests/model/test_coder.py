"""The pair "coder" on its real file, which the product's own code fetches where it is not in the cache."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from contextlib import contextmanager

import pytest

from diffuspec import DiffuSpec, load_pair
from diffuspec.measure import llama_server
from diffuspec.measure.baselines import compare_with_ar

pytestmark = pytest.mark.real_file

MEASURED = """
import json, re, time
from diffuspec.models import embedded, pair
from diffuspec.models.gguf.fetch import coder_gguf
path = coder_gguf(embedded.cache_dir())
started = time.monotonic()
loaded = pair.load_pair("coder")
seconds = time.monotonic() - started
# Of this program alone: ru_maxrss also counts the process that started it, before the exec.
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
print(json.dumps({"seconds": seconds, "peak": peak}))
"""


@pytest.fixture(scope="module")
def coder():
    return load_pair("coder")


def test_it_loads_without_a_float_model(coder):
    """In a process of its own, after one that has compiled what it needs."""
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"loaded in {found['seconds']:.1f} s, peak memory {found['peak'] / 1e9:.2f} GB")
    assert found["peak"] < 2.2e9


def test_it_answers_in_code_and_as_plain_decoding_does(coder):
    assert coder.stop_ids == {151643, 151645} and coder.info.context == 32768
    assert coder.info.ngram == 1 and coder.settings.proxy == "ngram+context" and coder.settings.followers
    prompt = "Repeat this function and add nothing:\n```python\ndef add(first, second):\n    return first + second\n```"
    trace = DiffuSpec(coder).run(prompt, max_new_tokens=30)
    assert "def add(first, second):\n    return first + second" in trace.text
    assert trace.with_baseline(compare_with_ar(coder, trace)).identical_to_ar
    assert trace.accepted_per_step > 0.5  # the question can be copied


@contextmanager
def llama_cpp(path):
    program = [sys.executable, llama_server.__file__, str(path), "64", "1"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        address = next(line.split()[-1] for line in server.stdout if line.startswith(llama_server.LISTENING))

        def ids(text: str) -> list[int]:
            body = {"content": text, "add_special": False, "parse_special": True}
            asked = urllib.request.Request(
                f"{address}/tokenize", json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(asked) as answer:
                return json.load(answer)["tokens"]

        yield ids
        server.stdin.close()


def test_its_ids_are_those_of_llama_cpp(coder):
    texts = (
        "def f(x):\n    return x**12345  # it's\t\n\n  x",
        "   three",
        "\n\n\n",
        "3.14159 0x1F 1234567890",
        "a<|im_end|>b <|fim_prefix|>x<|fim_middle|> <|endoftext|> ",
        "\t\tif (a&&b) {\r\n}\r\n",
        "IT'S I'LL don'T we'RE",
        "e\u0301 \u1e9b\u0323 \ufb01 日本語 한국어 🙂👩‍👩‍👧 Ⅷ ² ½ ١٢٣ \u00a0\u2003\u200b",
        "<tool_call>{}</tool_call>",
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    )
    with llama_cpp(coder.target.source) as ids:
        for text in texts:
            assert coder.tokenizer(text, add_special_tokens=False).input_ids == ids(text), text
