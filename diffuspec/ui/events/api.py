"""The endpoints others script against."""

from __future__ import annotations

import gradio as gr
import orjson

from diffuspec.errors import DiffuSpecError, SettingsError
from diffuspec.settings import Settings
from diffuspec.trace import Trace
from diffuspec.ui.events.explain import explain
from diffuspec.ui.events.files import write
from diffuspec.ui.events.runs import make_job
from diffuspec.ui.host import Host


class Api:
    """Typed endpoints on one host."""

    def __init__(self, host: Host):
        self.host = host

    def run(self, prompt: str, settings: str = "{}", dtype: str = "float32", compare: bool = True) -> dict:
        """Answer a prompt and compare with plain AR.

        settings: a JSON object of knobs by name, e.g. {"k_max": 12, "lam": 0.4}. Returns text, token_ids,
        new_tokens, steps, accepted_per_step, tokens_per_step, wall_s, ar_wall_s, speedup, identical_to_ar.
        """
        return self._whole(prompt, settings, dtype, compare).report()

    def trace(self, prompt: str, settings: str = "{}", dtype: str = "float32", compare: bool = True) -> gr.FileData:
        """Answer a prompt and return the whole trace, a gzip file of JSON Lines; arguments as `run`."""
        return gr.FileData(path=write(self._whole(prompt, settings, dtype, compare)))

    def _whole(self, prompt: str, settings: str | dict, dtype: str, compare: bool) -> Trace:
        try:
            job = make_job(prompt, Settings.from_mapping(_mapping(settings)), dtype, compare)
            for look in self.host.follow(job):
                trace = look.trace
            return trace
        except DiffuSpecError as error:
            raise gr.Error(str(error)) from error
        except Exception as error:
            raise gr.Error(explain(error)) from None


def _mapping(settings: str | dict) -> dict:
    try:
        values = settings if isinstance(settings, dict) else orjson.loads(settings or "{}")
    except orjson.JSONDecodeError as error:
        raise SettingsError(f"The settings are not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise SettingsError('The settings must be a JSON object, such as {"k_max": 12}.')
    return values
