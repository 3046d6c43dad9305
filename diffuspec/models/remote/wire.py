"""Requests to a server: bounded in time and size, asked again where that may help, and given up when a run is stopped.

One thread of the process serves the connections of all servers; whoever asks waits beside it, so that a request can be
dropped at any moment.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson

from diffuspec.errors import ServerError, Stopped
from diffuspec.loopback import LOOPBACK
from diffuspec.plaintext import brief

KEY = "DIFFUSPEC_API_KEY"  # the environment variable that holds a server's key
CONNECT_S, ANSWER_S = 10.0, 300.0
PATIENCE_S = 40.0  # how long a server that is away, or busy, is asked again
PAUSES_S = (0.2, 0.5, 1.0, 2.0, 4.0)  # between tries; the last one holds on
POLL_S = 0.02
MAX_BYTES = 64 * 2**20  # of one answer
AGAIN = (429, 502, 503, 504)


def never() -> bool:
    return False


@dataclass(frozen=True)
class Reply:
    """body: parsed JSON; ms: from the first try's beginning to the last byte; tries: 1 where the first one came
    through."""

    body: Any
    ms: float
    tries: int


class Wire:
    """The way to one server. Raises `ServerError` in one sentence for whatever goes wrong there.

    url: http or https, with or without the /v1 that clients of OpenAI's protocol give; the key, where there is one,
    comes from the environment variable `KEY` and is never written down.
    """

    def __init__(self, url: str, *, answer_s: float = ANSWER_S, patience_s: float = PATIENCE_S):
        self.url = checked(url)
        self.patience_s = patience_s
        key = os.environ.get(KEY, "").strip()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.AsyncClient(
            base_url=self.url,
            headers=headers,
            timeout=httpx.Timeout(answer_s, connect=CONNECT_S),
            trust_env=urlsplit(self.url).hostname not in LOOPBACK,
            limits=httpx.Limits(max_connections=None),
        )

    @property
    def place(self) -> str:
        """Host and port, as people name the server."""
        return urlsplit(self.url).netloc

    def get(self, path: str, **options) -> Any:
        """The parsed answer to a GET; options as `ask`."""
        return self.ask("GET", path, **options).body

    def post(self, path: str, body: Any, should_stop: Callable[[], bool] = never, **options) -> Reply:
        """Raises `Stopped` as soon as should_stop() turns true."""
        return self.ask("POST", path, body, should_stop, **options)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        should_stop: Callable[[], bool] = never,
        *,
        absent: tuple[int, ...] = (),
        again: bool = True,
    ) -> Reply:
        """absent: statuses that stand for None; again: whether a server that is away is asked again, for `patience_s`
        at most."""
        started, tries = time.monotonic(), 0
        while True:
            tries += 1
            try:
                status, data = _wait(self._fetch(method, path, body), should_stop)
                trouble = None if status < 400 or status in absent else self._refusal(status, data)
                hopeless = trouble is not None and status not in AGAIN
            except httpx.HTTPError as error:
                trouble, hopeless = self._away(error), isinstance(error, (httpx.ReadTimeout, httpx.UnsupportedProtocol))
            if trouble is None:
                ms = (time.monotonic() - started) * 1e3
                return Reply(None if status in absent else self._parsed(status, data), ms, tries)
            pause = PAUSES_S[min(tries, len(PAUSES_S)) - 1]
            if hopeless or not again or time.monotonic() - started + pause > self.patience_s:
                raise trouble
            _sleep(pause, should_stop)

    def lines(self, path: str, body: Any, should_stop: Callable[[], bool] = never) -> Iterator[bytes]:
        """The lines of an answer as they come; leaving the iterator hangs up."""
        told: queue.SimpleQueue = queue.SimpleQueue()

        async def read():
            try:
                async with self._client.stream("POST", path, **_content(body)) as answer:
                    if answer.status_code >= 300:
                        raise self._refusal(answer.status_code, await _all_of(answer))
                    async for line in answer.aiter_lines():
                        told.put(line.encode())
                told.put(None)
            except httpx.HTTPError as error:
                told.put(self._away(error))
            except ServerError as error:
                told.put(error)

        reading = asyncio.run_coroutine_threadsafe(read(), _loop())
        try:
            while True:
                try:
                    line = told.get(timeout=POLL_S)
                except queue.Empty:
                    if should_stop():
                        raise Stopped from None
                    continue
                if line is None:
                    return
                if isinstance(line, ServerError):
                    raise line
                yield line
        finally:
            reading.cancel()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._client.aclose(), _loop())

    async def _fetch(self, method: str, path: str, body: Any) -> tuple[int, bytes]:
        async with self._client.stream(method, path, **_content(body)) as answer:
            return answer.status_code, await _all_of(answer)

    def _parsed(self, status: int, data: bytes) -> Any:
        if 300 <= status < 400:
            raise ServerError(f"The server {self.place} sends requests on to another address: give that one.")
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError:
            raise ServerError(
                f"The server {self.place} did not answer in JSON: is it a model server, and is this its port?"
            ) from None

    def _refusal(self, status: int, data: bytes) -> ServerError:
        said = _words_of(data)
        if status in (401, 403):
            return ServerError(
                f"The server {self.place} refuses the request ({status}{said}): put its key into the environment "
                f"variable {KEY}."
            )
        return ServerError(f"The server {self.place} answered with an error ({status}{said}).")

    def _away(self, error: httpx.HTTPError) -> ServerError:
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            what = "cannot be reached"
        elif isinstance(error, httpx.TimeoutException):
            what = "did not answer in time"
        else:
            what = "hung up before its answer was complete"
        why = brief(error) if str(error) else type(error).__name__
        return ServerError(f"The server {self.place} {what} ({why}): check that it runs, then ask again.")


def checked(url: str) -> str:
    """The address without a slash or /v1 at its end. Raises `ServerError`."""
    try:
        parts = urlsplit(url.strip())
        ok = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        ok = False
    if not ok or parts.query or parts.fragment:
        raise ServerError(f"{brief(url)} is no address of a server: write it as http://HOST:PORT.")
    if parts.username or parts.password:
        raise ServerError(f"A server's address must hold no password: put its key into the variable {KEY}.")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"


def _content(body: Any) -> dict[str, Any]:
    return {} if body is None else {"content": orjson.dumps(body), "headers": {"Content-Type": "application/json"}}


async def _all_of(answer: httpx.Response) -> bytes:
    data = bytearray()
    async for part in answer.aiter_bytes():
        data += part
        if len(data) > MAX_BYTES:
            raise ServerError(f"The server sent more than {MAX_BYTES >> 20} MB in one answer: it was given up.")
    return bytes(data)


def _words_of(data: bytes) -> str:
    """What the server itself says of an error, ": ..." in one short line, or nothing."""
    try:
        said = orjson.loads(data)
    except orjson.JSONDecodeError:
        said = data[:400].decode("utf-8", "replace").strip()
    for name in ("error", "detail", "message"):
        if isinstance(said, dict) and said.get(name):
            said = said[name]
    return f": {brief(said)}" if said else ""


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="servers", daemon=True).start()
    return loop


def _wait(work, should_stop: Callable[[], bool]):
    """What a coroutine gives on the thread of the connections."""
    future = asyncio.run_coroutine_threadsafe(work, _loop())
    try:
        while True:
            try:
                return future.result(POLL_S)
            except concurrent.futures.TimeoutError:
                if future.done():
                    raise
                if should_stop():
                    raise Stopped from None
    finally:
        future.cancel()


def _sleep(seconds: float, should_stop: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if should_stop():
            raise Stopped
        time.sleep(min(left, POLL_S))
