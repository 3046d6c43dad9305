"""Loads the pair that was asked for when the program was started."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

EMBEDDED = "embedded"


class Loader:
    """The `load` of a `Host`: call it as (dtype, progress).

    asked: keyword arguments of `load_pair`. Pages ask for an arithmetic by name; one that this device does not compute
    in, or that this pair cannot have, stands for the pair's usual one, so that nothing is loaded twice.
    """

    def __init__(self, asked: Mapping[str, Any] | None = None):
        self.asked = dict(asked or {})
        self._loaded: dict[str, Any] = {}
        self._lock = threading.Lock()

    @property
    def pair_name(self) -> str:
        """As its traces say."""
        return self.asked.get("name") or ("custom" if self.asked.get("target") else EMBEDDED)

    def arithmetic(self, dtype: str) -> str:
        """What is computed in where `dtype` is asked for. Raises `PairError`."""
        from diffuspec.models.devices import choose_dtype, dtypes_on, this_device
        from diffuspec.models.pair import is_gguf
        from diffuspec.models.presets import CODER

        file = is_gguf(self.asked.get("target")) or self.pair_name == CODER
        wanted = self.asked.get("dtype")
        device = self.asked.get("device") or ("cpu" if file else None)
        at = this_device(device, wanted)
        quantised = file or self.pair_name == EMBEDDED
        able = dtypes_on(at, quantised)[: 1 if file else None]
        usual = choose_dtype(wanted, at, quantised)
        # A page's first choice is int8: where that is not what this pair has by itself, its usual one is meant.
        return dtype if dtype in able and (dtype != "int8" or usual == "int8") else usual

    def __call__(self, dtype: str, progress: Callable[[float | None, str], None]) -> Any:
        from diffuspec import load_pair

        made = self.arithmetic(dtype)
        with self._lock:
            if made not in self._loaded:
                self._loaded[made] = load_pair(**{**self.asked, "dtype": made}, progress=progress)
            return self._loaded[made]
