"""From the host's models to what the chooser draws."""

from __future__ import annotations

import sys
from pathlib import PurePath
from typing import Any

import orjson

from diffuspec.models.memory import free_memory
from diffuspec.ui.shell.explain import explain
from diffuspec.ui.shell.host import Host
from diffuspec.ui.shell.loader import Facts, Loader
from diffuspec.ui.shell.shelf import Copy, Unloaded

ARITHMETIC = {"int8": "8-bit", "float32": "32-bit", "bfloat16": "16-bit"}
READY, LOADING, FAILED, OFF = "ready", "loading", "failed", "off"


def chooser_payload(host: Host, session: str) -> str:
    """The JSON text of the line under the title and of every pair, for one visitor."""
    chosen = host.chosen(session)
    rows = [_row(host, key, chosen) for key in host.shelf.pairs]
    return orjson.dumps(
        {"line": line(host, chosen), "pairs": rows, "own": host.own, "shared": not host.own, "free": free_words()}
    ).decode()


def line(host: Host, chosen: str) -> dict[str, str]:
    """What computes: `main`, short, `drafts`, the drafter, and `whole`, a sentence with everything."""
    copies = host.shelf.copies(chosen)
    loaded = [copy for copy in copies if copy.pair is not None]
    if loaded:
        return _of_pair(loaded[-1].pair)
    facts = _facts(host.shelf.pairs[chosen], chosen)
    state = "loading" if copies and not copies[-1].ready.done() else "not loaded"
    said = "is being loaded" if state == "loading" else "is not loaded; what is recorded can be looked at without it"
    return {
        "main": f"{short(facts.target)}, {state}",
        "drafts": _drafts(facts.drafter),
        "whole": f"The pair {chosen} {said}.",
    }


def _of_pair(pair: Any) -> dict[str, str]:
    info, count = pair.info, getattr(getattr(pair, "target", None), "parameters", 0)
    name, arithmetic = short(info.target), ARITHMETIC.get(info.dtype, info.dtype)
    size = f" ({parameters_words(count)})" if count else ""
    drafter = "no diffusion drafter" if info.drafter == "none" else short(info.drafter)
    return {
        "main": f"{name}, {arithmetic}, {_place(info.device)}",
        "drafts": _drafts(info.drafter),
        "whole": f"Target: {name}{size}, in {arithmetic} arithmetic ({info.dtype}) on the {_device(info.device)}. "
        f"Drafts: {drafter}.",
    }


def _drafts(drafter: str) -> str:
    return "drafts: copies of the text" if drafter == "none" else f"drafts: {short(drafter)}"


def short(name: str) -> str:
    """Of a Hub id, a folder, or a title with its file behind a comma, the name alone."""
    return PurePath(name.partition(",")[0]).name or name


def parameters_words(count: float) -> str:
    billions = count / 1e9
    return f"{billions:.1f} billion parameters" if billions >= 1 else f"{count / 1e6:.0f} million parameters"


def _place(device: str) -> str:
    return "CPU" if device == "cpu" else "GPU" if device.startswith("cuda") else device


def _device(device: str) -> str:
    if device.startswith("cuda") and on_gpu():
        return f"GPU ({sys.modules['torch'].cuda.get_device_name(device)})"
    return _place(device)


def _facts(load: Any, key: str) -> Facts:
    return load.facts() if isinstance(load, Loader) else Facts(key, "")


def _row(host: Host, key: str, chosen: str) -> dict[str, Any]:
    facts, copies = _facts(host.shelf.pairs[key], key), host.shelf.copies(key)
    loaded = [copy for copy in copies if copy.pair is not None]
    state, said, fraction = _state(copies)
    own = key not in host.offered
    wanted = facts.gpu_gb if on_gpu() else facts.cpu_gb
    known = facts.licence or ("" if own else "licence: see its page")
    held = ", ".join(copy.dtype + (f", {_gb(copy.size / 1e9)}" if copy.size > 5e7 else "") for copy in loaded)
    return {
        "key": key,
        "title": "your own" if own else key,
        "target": facts.target,
        "drafter": "" if facts.drafter == "none" else facts.drafter,
        "about": [
            part
            for part in (facts.billions and parameters_words(1e9 * facts.billions), _needs(facts), known, facts.remark)
            if part
        ],
        "state": state,
        "held": held,
        "said": said,
        "fraction": fraction,
        "chosen": key == chosen,
        "large": state == OFF and wanted * 1e9 > free_bytes(),
    }


def _needs(facts: Facts) -> str:
    if not facts.gpu_gb:
        return ""
    if facts.gpu_gb == facts.cpu_gb:
        return f"{_gb(facts.cpu_gb)} of memory"
    return f"{_gb(facts.gpu_gb)} on a GPU, {_gb(facts.cpu_gb)} on a CPU"


def _gb(amount: float) -> str:
    return f"{amount:.0f} GB" if amount >= 10 else f"{amount:.1f} GB"


def _state(copies: list[Copy]) -> tuple[str, str, float | None]:
    for copy in reversed(copies):
        if not copy.ready.done():
            text, fraction = copy.tell()
            return LOADING, text, fraction
    if any(copy.pair is not None for copy in copies):
        return READY, "", None
    failed = [copy.ready.exception() for copy in copies if copy.failed]
    if failed and not isinstance(failed[-1], Unloaded):
        return FAILED, explain(failed[-1]), None
    return OFF, "", None


def on_gpu() -> bool:
    """Whether models are computed on a GPU by themselves; False while that is not known yet."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_available()


def free_bytes() -> int:
    """Of the memory that a pair would be loaded into."""
    if on_gpu():
        cuda = sys.modules["torch"].cuda
        return sum(cuda.mem_get_info(i)[0] for i in range(cuda.device_count()))
    return free_memory()


def free_words() -> str:
    return f"{_gb(free_bytes() / 1e9)} {'on the GPU' if on_gpu() else 'of memory'} are free."
