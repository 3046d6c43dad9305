"""Stand-ins for vLLM 0.32.0's server and SGLang 0.5.23's, which cannot run where the tests do.

They answer as the sources of those releases do, field for field: vLLM's prefix cache in whole blocks, of whose tokens
the rows come back missing (runner "v2") or uninitialised ("v1"), SGLang's rows from `logprob_start_len` on, the first
of which is null. The model behind both is a table: what comes next depends on the newest token alone. `tests/servers`
tries the real vLLM.
"""

from __future__ import annotations

import http.server
import json
import threading
import time

import numpy as np

from tests.fakes.tiny import byte_tokenizer

BLOCK = 16
TABLE = np.random.default_rng(4).normal(0, 2.5, (261, 261))
KEY = "a-secret"


def log_p(token: int, temperature: float = 1.0) -> np.ndarray:
    """Of what the model says after a token, float [261]."""
    row = TABLE[token] / temperature
    return row - np.log(np.exp(row - row.max()).sum()) - row.max()


def greedy(ids: list[int], tokens: int, ends: set[int]) -> list[int]:
    made = []
    while len(made) < tokens and not (made and made[-1] in ends):
        made.append(int(TABLE[[*ids, *made][-1]].argmax()))
    return made


class ModelServer:
    """kind: "vllm" or "sglang"; source: folder of the tokenizer; runner: vLLM's; away: requests that are dropped before
    they are answered, but after they were worked on; requests: paths and bodies that came."""

    def __init__(self, kind: str, source, *, runner: str = "v2", key: str | None = None):
        self.kind, self.source, self.runner, self.key = kind, str(source), runner, key
        self.cached: set[tuple] = set()
        self.requests: list[tuple[str, dict]] = []
        self.away, self.hang = 0, threading.Event()
        self.random, self.tokenizer = np.random.default_rng(1), byte_tokenizer()
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

            def do_GET(self):
                self.answer({"object": "list", "data": [owner.listed()]} if self.path == "/v1/models" else None)

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if owner.key and self.headers.get("Authorization") != f"Bearer {owner.key}":
                    return self.answer({"error": "Unauthorized"}, 401)
                owner.requests.append((self.path, body))
                while owner.hang.is_set():
                    time.sleep(0.01)
                said = owner.reply(self.path, body)
                if owner.away:
                    owner.away -= 1
                    self.close_connection = True
                    return self.connection.close()
                if body.get("stream"):
                    self.send_response(200)
                    self.send_header("Content-Type", "text/event-stream")
                    self.send_header("Connection", "close")
                    self.end_headers()
                    for event in said:
                        self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
                    return self.wfile.write(b"data: [DONE]\n\n")
                self.answer(said)

            def answer(self, said, status=200):
                data = json.dumps({"detail": "Not Found"} if said is None else said).encode()
                self.send_response(404 if said is None else status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self.hang.clear()
        self._server.shutdown()
        self._server.server_close()

    def listed(self) -> dict:
        entry = {"id": "served", "object": "model", "owned_by": self.kind, "root": self.source, "max_model_len": 512}
        return {**entry, "parent": None} if self.kind == "vllm" else entry

    def reply(self, path: str, body: dict):
        if path in ("/tokenize", "/v1/tokenize"):
            ids = self.tokenizer(body["prompt"], add_special_tokens=body["add_special_tokens"]).input_ids
            return {"count": len(ids), "max_model_len": 512, "tokens": ids}
        calls = {
            ("vllm", "/v1/completions"): self.completions,
            ("vllm", "/inference/v1/generate"): self.inference,
            ("sglang", "/generate"): self.generate,
        }
        call = calls.get((self.kind, path))
        return call(body) if call else None

    # vLLM

    def completions(self, body: dict):
        if body["prompt"] and isinstance(body["prompt"], str):
            ids = self.tokenizer(body["prompt"], add_special_tokens=False).input_ids
            return {"choices": [{"index": 0, "token_ids": [0], "prompt_token_ids": ids}]}
        if body.get("stream"):
            made = greedy(body["prompt"], body["max_tokens"], set(body["stop_token_ids"]))
            return [{"choices": [{"index": 0, "token_ids": made[i : i + 3]}]} for i in range(0, len(made), 3)]
        choices = []
        for index, prompt in reversed(list(enumerate(body["prompt"]))):
            token = self._draw(prompt[-1], body)
            choice = {"index": index, "token_ids": [token], "text": "", "logprobs": None, "finish_reason": "length"}
            if body.get("logprobs"):
                top = self._top(prompt[-1], body["logprobs"])
                choice["logprobs"] = {"top_logprobs": [{f"token_id:{i}": logp for i, logp in top}]}
            choices.append(choice)
        return {"choices": choices, "usage": {"prompt_tokens": sum(map(len, body["prompt"]))}}

    def inference(self, body: dict):
        text, sampling = body["token_ids"], body["sampling_params"]
        assert sampling["max_tokens"] == 1 and sampling["temperature"] == 0
        salt, blocks = body["cache_salt"], range(BLOCK, len(text), BLOCK)
        cached = 0
        if not sampling["skip_reading_prefix_cache"]:
            for end in blocks:
                if (salt, *text[:end]) not in self.cached:
                    break
                cached = end
        self.cached.update((salt, *text[:end]) for end in [*blocks, len(text)] if end % BLOCK == 0)
        rows: list[dict | None] = [None]
        for place in range(1, len(text)):
            if place < cached:
                rows.append({str(self.random.integers(261)): {"logprob": -3.0, "rank": 1, "decoded_token": None}})
                continue
            order = log_p(text[place - 1])
            told = dict(self._top(text[place - 1], sampling["prompt_logprobs"]))
            told.setdefault(text[place], float(order[text[place]]))
            rows.append({
                str(i): {"logprob": logp, "rank": int((order > order[i]).sum()) + 1, "decoded_token": None}
                for i, logp in told.items()
            })  # fmt: skip
        top = [{"token_id": i, "logprob": logp, "rank": None} for i, logp in self._top(text[-1], sampling["logprobs"])]
        token = self._draw(text[-1], sampling)
        return {
            "request_id": "1",
            "choices": [{
                "index": 0, "token_ids": [token], "finish_reason": "length",
                "logprobs": {"content": [{**top[0], "top_logprobs": top}]},
            }],
            "prompt_logprobs": rows if self.runner == "v1" else rows[cached:] if cached else rows,
        }  # fmt: skip

    # SGLang

    def generate(self, body: dict):
        if body.get("stream"):
            sampling = body["sampling_params"]
            made = greedy(body["input_ids"], sampling["max_new_tokens"], set(sampling["stop_token_ids"]))
            return [
                {"output_ids": made[:end], "meta_info": {"completion_tokens": end}} for end in range(1, len(made) + 1)
            ]
        answers = []
        for text in body["input_ids"]:
            token = self._draw(text[-1], body["sampling_params"])
            meta = {"prompt_tokens": len(text), "cached_tokens": max(0, len(text) - 3), "e2e_latency": 0.001}
            if body.get("return_logprob"):
                start, most = body.get("logprob_start_len", len(text) - 1), body["top_logprobs_num"]
                told = [[logp, i, None] for i, logp in self._top(text[-1], most)]
                meta["output_top_logprobs"] = [told]
                meta["input_top_logprobs"] = [
                    None,
                    *([[logp, i, None] for i, logp in self._top(text[at], most)] for at in range(start, len(text) - 1)),
                ]
            answers.append({"text": "", "output_ids": [token], "meta_info": meta})
        return answers

    def _top(self, token: int, most: int) -> list[tuple[int, float]]:
        order = log_p(token)
        return [(int(i), float(order[i])) for i in np.argsort(-order)[:most]]

    def _draw(self, token: int, sampling: dict) -> int:
        assert "seed" not in sampling
        for name in ("min_p", "presence_penalty", "frequency_penalty"):
            assert sampling[name] == 0
        if not sampling["temperature"]:
            return int(TABLE[token].argmax())
        p = np.exp(log_p(token, sampling["temperature"]))
        return int(self.random.choice(len(p), p=p / p.sum()))
