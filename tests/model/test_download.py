"""Models from a Hub that stands on this machine: progress, and each thing that goes wrong in one sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.hub import Hub

ROOT = Path(__file__).parents[2]
# The Hub's address is read when its package is imported, so each case has a program of its own.
PROGRAM = """
import json, sys
from diffuspec.errors import DiffuSpecError
from diffuspec.models.pair import fetch_pair, load_pair
heard, said = [], None
asked = json.loads(sys.argv[1])
class Enough(Exception): pass
def progress(fraction, message):
    heard.append([fraction, message])
    if asked.get("give_up") and "of" in message: raise Enough
try:
    pair = load_pair(target=asked["target"], drafter=asked["drafter"], convention={"mask_token": 4}, progress=progress)
    said = pair.info.target
except DiffuSpecError as error:
    said = type(error).__name__ + ": " + str(error)
except Enough:
    said = "given up"
print(json.dumps({"heard": heard, "said": said}))
"""


@pytest.fixture
def loaded(tmp_path):
    """loaded(hub's address, target, drafter) -> what was heard and said."""

    def load(url, target, drafter, **more):
        env = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(ROOT)}
        for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN"):
            env.pop(name, None)
        asked = json.dumps({"target": target, "drafter": drafter, **more})
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, asked], env=env, capture_output=True, text=True, timeout=240, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)

    return load


def test_a_download_tells_its_bytes_and_is_made_once(loaded, tiny_folder):
    with Hub({"me/target": tiny_folder, "me/drafter": tiny_folder}) as hub:
        first = loaded(hub.url, "me/target", "me/drafter")
        assert first["said"] == "me/target"
        told = [message for _, message in first["heard"] if message.startswith("Fetching me/target")]
        assert told[0].endswith("GB") and " of " in told[-1]
        fractions = [fraction for fraction, _ in first["heard"] if fraction is not None]
        assert fractions == sorted(fractions) and fractions[-1] == 1.0
        weights = [path for path in hub.asked if path.endswith("model.safetensors")]
        hub.asked.clear()
        again = loaded(hub.url, "me/target", "me/drafter")
        assert not any(message.startswith("Fetching") for _, message in again["heard"]) and weights
    # The Hub is gone: what was fetched is enough.
    assert loaded(hub.url, "me/target", "me/drafter")["said"] == "me/target"


def test_a_gated_and_a_missing_model_say_what_to_do(loaded, tiny_folder):
    with Hub({"me/target": tiny_folder, "me/gated": tiny_folder}, gated=("me/gated",)) as hub:
        gated = loaded(hub.url, "me/gated", "me/target")["said"]
        missing = loaded(hub.url, "me/target", "me/nowhere")["said"]
    login = "log in with `hf auth login`."
    assert gated == f"WeightsError: The target me/gated is gated: accept its licence on its page, then {login}"
    assert missing == (
        f"WeightsError: The drafter me/nowhere is not on the Hub, or is private: check the name, or {login}"
    )


def test_without_a_network_the_sentence_names_it(loaded):
    with Hub({}) as hub:
        pass
    said = loaded(hub.url, "me/target", "me/drafter")["said"]
    assert said.startswith("WeightsError: The target me/target could not be loaded") and "the network" in said


def test_a_download_is_given_up_when_progress_raises(loaded, tiny_folder):
    with Hub({"me/target": tiny_folder, "me/drafter": tiny_folder}) as hub:
        assert loaded(hub.url, "me/target", "me/drafter", give_up=True)["said"] == "given up"
        assert loaded(hub.url, "me/target", "me/drafter")["said"] == "me/target"
