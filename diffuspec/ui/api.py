"""The endpoints others script against: by HTTP, by `gradio_client`, and as tools of an MCP server.

Their docstrings are what the API page and the tools' descriptions show.
"""

from __future__ import annotations

from typing import Any

import gradio as gr
import numpy as np
import orjson

from diffuspec import assets
from diffuspec.errors import BusyError, DiffuSpecError, PromptError, SettingsError
from diffuspec.method.copying import make_source
from diffuspec.method.lattice import TokenLattice, prune
from diffuspec.method.proxy import make_proxy
from diffuspec.method.search import TreeSearch, argmax_path, search_lattice
from diffuspec.settings import Knob, Settings
from diffuspec.trace.model import Trace
from diffuspec.ui.playground.events import make_job
from diffuspec.ui.shell.explain import explain
from diffuspec.ui.shell.files import write
from diffuspec.ui.shell.host import DTYPES, Host
from diffuspec.ui.shell.visitors import Listener, client_of

MOST_POSITIONS, MOST_CANDIDATES, LONGEST_CONTEXT = 128, 64, 8192


def in_words(text: str) -> str:
    """A docstring's text with `{knobs}` replaced by every knob and its bounds: the schema of an endpoint loses them."""
    return text.replace("{knobs}", "; ".join(_bounds(knob) for knob in Settings.knobs().values()))


def _bounds(knob: Knob) -> str:
    if knob.choices:
        return f"{knob.name}: {', '.join(knob.choices)} (default {knob.default})"
    kind = "a whole number" if knob.kind is int else "a number"
    return f"{knob.name}: {kind} from {_plain(knob.low)} to {_plain(knob.high)} (default {_plain(knob.default)})"


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


class Api:
    """Typed endpoints on one host."""

    def __init__(self, host: Host, demo: gr.Blocks):
        self.host, self.demo = host, demo

    def run(
        self,
        prompt: str,
        settings: str | dict = "{}",
        dtype: str = DTYPES[0],
        compare: bool = True,
        request: gr.Request | None = None,
    ) -> dict:
        """Answer a prompt by speculative decoding with a diffusion drafter, and compare with plain AR decoding.

        Args:
            prompt: the user's turn; the chat template is applied.
            settings: knobs by name, as a JSON object or its text, such as {"k_max": 12, "max_new_tokens": 64}. {knobs}
            dtype: int8 or float32 (both identical to plain decoding), or bfloat16 (which may differ).
            compare: whether plain AR decoding is run beside it for the speed-up and the identity check.

        Returns:
            text, token_ids, new_tokens, steps, accepted_per_step, tokens_per_step, wall_s, ar_wall_s, speedup,
            identical_to_ar; the last three are null without comparison.
        """
        return _told(self._whole(prompt, settings, dtype, compare, request).report(), request)

    def trace(
        self,
        prompt: str,
        settings: str | dict = "{}",
        dtype: str = DTYPES[0],
        compare: bool = True,
        request: gr.Request | None = None,
    ) -> gr.FileData:
        """Answer a prompt and return everything that happened, step by step, as a file.

        Args:
            prompt: the user's turn; the chat template is applied.
            settings: knobs by name, as a JSON object or its text, such as {"k_max": 12, "max_new_tokens": 64}. {knobs}
            dtype: int8 or float32 (both identical to plain decoding), or bfloat16 (which may differ).
            compare: whether plain AR decoding is run beside it.

        Returns:
            A gzip file of JSON Lines that `Trace.load` and the playground open.
        """
        return gr.FileData(path=write(self._whole(prompt, settings, dtype, compare, request)))

    def search(
        self,
        ids: list[list[int]],
        logq: list[list[float]],
        settings: str | dict = "{}",
        context: list[int] | None = None,
        stop_ids: list[int] | None = None,
        request: gr.Request | None = None,
    ) -> dict:
        """Prune a given token lattice and search a path through it, without any model.

        Args:
            ids: k columns (at most 128) of as many candidate token ids each (at most 64), likeliest first.
            logq: the natural logarithm of the drafter's probability of each, of the same shape, falling along a row.
            settings: knobs by name, as JSON, such as {"tau": 0.8, "beam": 3, "proxy": "none"}. {knobs}
            context: token ids before the draft, which the causal proxy reads.
            stop_ids: token ids that end an answer.

        Returns:
            kept (k lists of true or false), path (token ids), ranks (0-based), scores (Eq. 8 summed up to each
            position; for a tree the log-probability of reaching it) and, where search is "tree", nodes: each with
            id, parent, depth and score.
        """
        try:
            found = _search(ids, logq, Settings.from_mapping(_mapping(settings)), context or [], stop_ids or [])
            return _told(found, request)
        except DiffuSpecError as error:
            raise gr.Error(str(error), print_exception=False) from error
        except Exception as error:
            raise gr.Error(explain(error)) from None

    def _whole(self, prompt: str, settings: str | dict, dtype: str, compare: bool, request: gr.Request | None) -> Trace:
        progress = gr.Progress()  # what a client that follows the call hears; `gr.api` allows it no parameter
        try:
            settings = self.host.within(Settings.from_mapping(_mapping(settings)))
            job = make_job(prompt, settings, dtype, compare)
            job.client = client_of(request, script=True)
            heard = Listener(self.demo, job.client.session)
            for look in self.host.follow(job):
                if not heard.listens():
                    raise BusyError("Nobody reads the answer of this call, so it was ended.")
                if look.status is not None:
                    progress((0, None), desc=look.status.text)
                elif look.source.comparing is not None:
                    progress((look.source.comparing, look.trace.new_tokens), desc="plain AR", unit="tokens")
                else:
                    progress((look.trace.new_tokens, job.settings.max_new_tokens), desc="tokens", unit="tokens")
                trace = look.trace
            if job.cut:
                raise BusyError(f"{job.cut} Ask for fewer tokens.")
            return trace
        except DiffuSpecError as error:
            raise gr.Error(str(error), print_exception=False) from error
        except Exception as error:
            raise gr.Error(explain(error)) from None


def _told(result: dict[str, Any], request: gr.Request | None) -> dict[str, Any] | str:
    """The result of an endpoint: an object, for an MCP client its JSON text, where Gradio would write it as Python
    does."""
    if request is not None and request.headers.get("x-gradio-user") == "mcp":
        return orjson.dumps(result).decode()
    return result


def _search(ids, logq, settings: Settings, context, stop_ids) -> dict[str, Any]:
    lattice = _lattice(ids, logq, settings, _tokens(stop_ids, "stop_ids"))
    context, stops = _tokens(context, "context")[-LONGEST_CONTEXT:], frozenset(_tokens(stop_ids, "stop_ids"))
    found = _path(lattice, settings, context, stops)
    made = {
        "kept": lattice.kept.tolist(),
        "path": found.ids.tolist(),
        "ranks": found.ranks.tolist(),
        "scores": found.score.astype(float).tolist(),
    }
    if found.tree is not None:
        tree = found.tree
        columns = (tree.ids, tree.parent, tree.depth, tree.score.astype(float))
        rows = zip(*(column.tolist() for column in columns), strict=True)
        made["nodes"] = [dict(zip(("id", "parent", "depth", "score"), row, strict=True)) for row in rows]
    return made


def _path(lattice: TokenLattice, settings: Settings, context: list[int], stop_ids: frozenset[int]):
    if settings.search == "argmax":
        return argmax_path(lattice, stop_ids)
    fitted = assets.ngram("embedded") if settings.proxy.startswith("ngram") else None
    vocabulary = fitted.vocab_size if fitted else 1 + max([int(lattice.ids.max(initial=0)), *context])
    if max([int(lattice.ids.max(initial=0)), *context]) >= vocabulary:
        raise SettingsError(
            f"proxy = {settings.proxy} knows the token ids 0 to {vocabulary - 1} of the embedded pair: "
            "use context or none."
        )
    proxy = make_proxy(
        settings.proxy, ngram=fitted, vocab_size=vocabulary, weight=settings.context_weight, prompt_ids=context
    )
    source = make_source(settings, context)
    found = search_lattice(lattice, proxy, context, settings, stop_ids=stop_ids, source=source)
    return found.along(-1) if isinstance(found, TreeSearch) else found


def _lattice(ids, logq, settings: Settings, stop_ids: list[int]) -> TokenLattice:
    """Raises `PromptError` for anything but two tables of numbers of one shape."""
    try:
        rows = [_tokens(row, "ids") for row in ids]
        shape = len(rows), len(rows[0]) if rows else 0
        table = np.array(logq, dtype=np.float64)
        fits = 0 < shape[0] <= MOST_POSITIONS and 0 < shape[1] <= MOST_CANDIDATES
        if not fits or table.shape != shape or any(len(row) != shape[1] for row in rows):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise PromptError(
            f"ids and logq must be tables of one shape: up to {MOST_POSITIONS} rows of up to {MOST_CANDIDATES} numbers."
        ) from None
    if not np.isfinite(table).all() or (table > 1e-6).any() or (np.diff(table, axis=1) > 1e-6).any():
        raise PromptError("logq must hold logarithms of probabilities: finite, at most 0, and falling along each row.")
    return prune(np.array(rows, np.int32), table, tau=settings.tau, m_max=settings.m_max, stop_ids=stop_ids)


def _tokens(values, name: str) -> list[int]:
    """Token ids as int32; raises `PromptError`."""
    try:
        if not all(type(value) is int and 0 <= value < 2**31 for value in values):
            raise TypeError
    except TypeError:
        raise PromptError(f"{name} must hold token ids: whole numbers from 0 on.") from None
    return list(values)


def _mapping(settings: str | dict) -> dict:
    try:
        values = settings if isinstance(settings, dict) else orjson.loads(settings or "{}")
    except orjson.JSONDecodeError as error:
        raise SettingsError(f"The settings are not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise SettingsError('The settings must be a JSON object, such as {"k_max": 12}.')
    return values
