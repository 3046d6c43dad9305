"""The look at a device, on a tiny pair and on a CPU."""

from __future__ import annotations

import json

import pytest
import torch

from diffuspec.cli.main import main
from diffuspec.measure import device
from diffuspec.measure.device import same_bits
from diffuspec.models.target import Target
from tests.model.test_static import network


def test_bits_of_rows_are_told_apart():
    exact = same_bits(Target(network("qwen3", torch.bfloat16), static=True))
    assert exact == {"same_bits": True, "largest_difference": 0.0, "other_tokens": 0, "rows": 12}
    loose = same_bits(Target.untouched(network("qwen3", torch.bfloat16)))
    assert not loose["same_bits"] and loose["largest_difference"] > 0


def test_one_command_writes_one_file_and_says_that_it_was_a_cpu(tiny_folder, tmp_path, capsys, monkeypatch):
    one = device.bundled_questions().spread(1)
    monkeypatch.setattr(device, "bundled_questions", lambda: one)
    monkeypatch.setattr(device, "METHODS", ("ar", "diffuspec"))
    out = tmp_path / "device.json"
    words = ["--target", str(tiny_folder), "--drafter", str(tiny_folder), "--mask-token", "4", "--shifted"]
    options = ["--dtype", "bfloat16", "--static", "--device", "cpu", "--json", str(out)]
    assert main(["check-device", *words, *options]) == 0
    found = json.loads(out.read_text())
    assert not found["gpu"] and found["device"].startswith("no CUDA device") and found["tests"] is None
    assert found["complete"] and found["passes_of_one_shape"] and found["rows"]["same_bits"]
    assert found["pair"]["dtype"] == "bfloat16" and found["passes"]["verify_ms"]["16"] > 0
    assert [row["method"] for row in found["methods"]] == ["ar", "diffuspec"]
    assert all(row["identical"] == 1.0 for row in found["methods"])
    assert 0 < found["host_share"]["diffuspec"] < 1
    assert "measured on the CPU" in capsys.readouterr().out


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_minutes_are_a_number_above_none(minutes, tmp_path, capsys):
    assert main(["check-device", "--minutes", minutes, "--json", str(tmp_path / "x.json")]) == 1
    assert "give a number above 0" in capsys.readouterr().err
