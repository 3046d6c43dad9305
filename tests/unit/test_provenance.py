"""What is looked at without a model starts at once, and every file says which program made it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import diffuspec
from diffuspec import Trace, provenance

IMPORTED = """
import json, sys, time
started = time.perf_counter()
import numpy
numpy_s = time.perf_counter() - started
before = set(sys.modules)
started = time.perf_counter()
from diffuspec import Trace
print(json.dumps([numpy_s, time.perf_counter() - started, sorted(set(sys.modules) - before)]))
"""


def test_a_trace_is_looked_at_without_torch_or_a_compiler():
    """0.07 s beyond numpy's 0.14 s on an idle machine: less than the two numbers of numpy's that are allowed here."""
    tried = [
        json.loads(subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True).stdout)
        for _ in range(3)
    ]
    loaded = {name.partition(".")[0] for name in tried[0][2]}
    assert not loaded & {"torch", "numba", "llvmlite", "transformers", "gradio", "plotly", "pandas", "yaml", "scipy"}
    assert min(ours / numpys for numpys, ours, _ in tried) < 2


def test_every_trace_names_the_program_and_older_ones_load(tiny_trace):
    assert tiny_trace.provenance.versions["diffuspec"] == diffuspec.__version__
    assert set(provenance.versions()) == {"diffuspec", "python", "torch", "transformers"}
    older = dataclasses.replace(tiny_trace.provenance, versions={"python": "3.11"})
    again = Trace.loads(dataclasses.replace(tiny_trace, provenance=older).dumps())
    assert again.provenance == older


def test_the_fingerprint_is_of_sources_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)
    (tmp_path / "room" / "__pycache__").mkdir(parents=True)
    (tmp_path / "room" / "a.py").write_text("1")
    first = provenance.fingerprint.__wrapped__("room")
    for name in ("a.cpython-311.pyc", "a.f-1.py311.nbi", "a.f-1.py311.1.nbc"):
        (tmp_path / "room" / "__pycache__" / name).write_bytes(b"kept by Python and numba")
    assert provenance.fingerprint.__wrapped__("room") == first
    (tmp_path / "room" / "a.py").write_text("2")
    assert provenance.fingerprint.__wrapped__("room") != first


def test_the_cores_of_a_machine_are_those_that_may_be_used(monkeypatch):
    """In a container with a quota the host's cores say nothing about how fast a run was."""
    monkeypatch.setattr(provenance, "usable_cores", lambda: 3)
    assert provenance.machine.__wrapped__().endswith(", 3 cores")
