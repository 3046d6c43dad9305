"""One pair that can be had here: how it is loaded, and what is known of it before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from diffuspec.errors import PairError
from diffuspec.models.presets import (
    APACHE,
    CODER,
    EMBEDDED,
    NAMES,
    NEEDS_GB,
    PRESETS,
    ROOM,
    SERVER,
    check_asked,
    is_gguf,
)

Heard = Callable[[float | None, str], None]


@dataclass(frozen=True)
class Facts:
    """What a person wants to know before loading a pair. billions: of parameters of both models; gpu_gb, cpu_gb: of
    memory in the arithmetic that a GPU and a CPU have by themselves; 0 where only the configurations tell; licence: ""
    where the makers' pages have to be read."""

    target: str
    drafter: str
    billions: float = 0.0
    gpu_gb: float = 0.0
    cpu_gb: float = 0.0
    licence: str = ""
    remark: str = ""


class Loader:
    """Call it as (dtype, progress) for the pair; `fetch` puts on the disk what that needs.

    asked: keyword arguments of `load_pair`. Pages ask for an arithmetic by name; one that this device does not compute
    in, or that this pair cannot have, stands for the pair's usual one, so that nothing is loaded twice.
    make_room, could_make_room: whether so many bytes of memory were freed, or could be.
    Raises `PairError` for what is no pair.
    """

    def __init__(self, asked: Mapping[str, Any] | None = None):
        self.asked = dict(asked or {})
        check_asked(
            *(self.asked.get(word) for word in ("name", "target", "drafter", "convention", "target_url", "server"))
        )
        self.make_room: Callable[[int], bool] = lambda lacking: False
        self.could_make_room: Callable[[int], bool] = lambda lacking: False

    @property
    def pair_name(self) -> str:
        """As its traces say."""
        if self.asked.get("target_url"):
            return SERVER
        return self.asked.get("name") or ("custom" if self.asked.get("target") else EMBEDDED)

    @property
    def key(self) -> str:
        """Tells it from all others of one program."""
        if self.pair_name == SERVER:
            return f"{SERVER} {self.asked['target_url']}"
        if self.pair_name != "custom":
            return self.pair_name
        drafter = self.asked.get("drafter")
        return f"{self.asked['target']} + {drafter}" if drafter else str(self.asked["target"])

    def arithmetic(self, dtype: str) -> str:
        """What is computed in where `dtype` is asked for. Raises `PairError`."""
        from diffuspec.models.devices import choose_dtype, dtypes_on, this_device

        if self.pair_name == SERVER:
            return SERVER
        file = is_gguf(self.asked.get("target")) or self.pair_name == CODER
        wanted = self.asked.get("dtype")
        device = self.asked.get("device") or ("cpu" if file else None)
        at = this_device(device, wanted)
        quantised = file or self.pair_name == EMBEDDED
        able = dtypes_on(at, quantised)[: 1 if file else None]
        usual = choose_dtype(wanted, at, quantised)
        # A page's first choice is int8: where that is not what this pair has by itself, its usual one is meant.
        return dtype if dtype in able and (dtype != "int8" or usual == "int8") else usual

    def fetch(self, dtype: str, progress: Heard) -> None:
        from diffuspec.models.pair import fetch_pair

        fetch_pair(**self._arguments(dtype), progress=progress, make_room=self.could_make_room)

    def __call__(self, dtype: str, progress: Heard) -> Any:
        from diffuspec import load_pair

        return load_pair(**self._arguments(dtype), progress=progress, make_room=self.make_room)

    def _arguments(self, dtype: str) -> dict[str, Any]:
        return self.asked if self.pair_name == SERVER else {**self.asked, "dtype": self.arithmetic(dtype)}

    def facts(self) -> Facts:
        name = self.pair_name
        if name == EMBEDDED:
            remark = "Comes along; 93 MB are fetched at first use."
            return Facts(
                "SmolLM2-135M-Instruct", "SmolLM2 block drafter", 0.156, NEEDS_GB[name], NEEDS_GB[name], APACHE, remark
            )
        if name == CODER:
            remark = "For code; drafts are copies of the text so far. 1.1 GB are fetched at first use."
            return Facts("Qwen2.5-Coder-1.5B-Instruct", "none", 1.54, NEEDS_GB[name], NEEDS_GB[name], APACHE, remark)
        if name in PRESETS:
            pair = PRESETS[name]
            return Facts(
                pair.target,
                pair.drafter,
                pair.needs_gb / 2,
                pair.needs_gb * ROOM,
                2 * pair.needs_gb * ROOM,
                pair.licence,
            )
        if name == SERVER:
            drafter = str(self.asked.get("drafter") or "none")
            return Facts(f"the model that {self.asked['target_url']} serves", drafter, remark="A server verifies.")
        return Facts(str(self.asked["target"]), str(self.asked.get("drafter") or "none"))


def known_pairs(asked: Mapping[str, Any], names: list[str] | None = None) -> dict[str, Loader]:
    """The pair that the program was started with, and those of `names` (None: all known ones) on the same device.

    Raises `PairError` for a name that is not known."""
    first = Loader(asked)
    pairs = {first.key: first}
    for name in NAMES if names is None else names:
        check_asked(name, None, None)
        device = asked.get("device") if name != CODER else None
        pairs.setdefault(name, Loader({"name": name, "device": device}))
    return pairs


def own_pair(told: Mapping[str, Any], device: str | None = None) -> Loader:
    """The two checkpoints that a page names, with how the drafter is read. Raises `PairError`."""

    def text(name: str) -> str | None:
        value = told.get(name)
        if value is not None and not isinstance(value, str) or len(value or "") > 1000:
            raise PairError(f"{name} is no text.")
        return (value or "").strip() or None

    drafter, mask = text("drafter"), text("mask_token")
    if text("target") is None:
        raise PairError("Name a target: a folder, a Hub id such as Qwen/Qwen3-4B, or a file that ends in .gguf.")
    from diffuspec.models.custom import is_custom

    if drafter and is_custom(drafter):
        raise PairError(
            f"{drafter} is a program, which a page does not start: give it on the command line, with --drafter."
        )
    shifted = {"yes": True, "no": False}.get(text("shifted") or "")
    said = {
        "mask_token": int(mask) if mask and mask.isdigit() else mask,
        "attention": text("attention"),
        "shifted": shifted,
        "layout": text("layout"),
    }
    return Loader(
        {
            "target": text("target"),
            "drafter": drafter,
            "convention": {name: value for name, value in said.items() if value is not None},
            "ngram": text("ngram"),
            "device": device,
        }
    )
