"""Where compiled code is kept, and that a change anywhere in its sources is noticed."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffuspec import compilation, provenance

PACKAGE = compilation.PACKAGE


def _imports(path: Path) -> set[str]:
    """The modules of this package that a file imports, as paths within the package."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("diffuspec"):
            names |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    stems = {name.removeprefix("diffuspec").lstrip(".").replace(".", "/") for name in names}
    paths = {stem + end for stem in stems for end in (".py", "/__init__.py")}
    return {name for name in paths if (PACKAGE / name).is_file()}


def test_every_source_of_compiled_code_is_hashed():
    decorating = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        if "compilation.py" in _imports(file) or "njit" in file.read_text(encoding="utf-8")
    }
    assert len(decorating) > 3 and decorating <= set(compilation.SOURCES)
    for name in compilation.SOURCES:
        below = _imports(PACKAGE / name) - {"cache.py", "cores.py", "errors.py"}
        assert below <= set(compilation.SOURCES), f"{name} takes functions or constants from files that are not hashed"


def test_a_change_in_any_source_finds_another_folder(tmp_path, monkeypatch):
    for name in compilation.SOURCES:
        copy = tmp_path / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((PACKAGE / name).read_bytes())
    own = compilation.edition()
    monkeypatch.setattr(compilation, "PACKAGE", tmp_path)
    assert compilation.edition() == own
    for name in compilation.SOURCES:
        before = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(before + b"\n")
        assert compilation.edition() != own, name
        (tmp_path / name).write_bytes(before)
    monkeypatch.setattr(compilation.numba.config, "CPU_NAME", "haswell")
    assert compilation.edition() != own


def test_the_first_folder_that_can_be_written_is_used(tmp_path):
    (tmp_path / "file").write_text("")
    found = compilation.first_writable([tmp_path / "file", tmp_path / "file/below", tmp_path / "good"], "abc")
    assert found == tmp_path / "good/abc" and found.stat().st_mode & 0o777 == 0o700
    assert compilation.first_writable([tmp_path / "file"], "abc") is None


def test_a_folder_that_others_may_write_to_is_passed_over(tmp_path):
    for name in ("root", "leaf/abc"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name).chmod(0o777)
    roots = [tmp_path / "root", tmp_path / "leaf", tmp_path / "own"]
    assert compilation.first_writable(roots, "abc") == tmp_path / "own/abc"


def test_the_folders_used_last_stay(tmp_path):
    (tmp_path / "another").mkdir()
    for i in range(6):
        folder = compilation.first_writable([tmp_path], f"edition{i}")
        os.utime(folder / "used", (i, i))
    assert compilation.first_writable([tmp_path], "edition2") is not None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["another", *(f"edition{i}" for i in (2, 3, 4, 5))]


SMALL = """
from diffuspec.compilation import compiled
import diffuspec.compilation as compilation

@compiled(nogil=True)
def twice(x):
    return 2 * x

assert twice(4) == 8
print(compilation.code_dir(), sum(twice.stats.cache_hits.values()), compilation.numba.config.CACHE_DIR)
"""


def _small(tmp_path, **environ) -> tuple[str, str]:
    """Where a small function's code is kept in a fresh process, and how often it was found there."""
    script = tmp_path / "small.py"
    script.write_text(SMALL)
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(PACKAGE.parent), **environ}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environ, timeout=100)
    assert done.returncode == 0, done.stderr
    folder, hits, *_ = done.stdout.split()
    return folder, hits


@pytest.mark.slow
def test_code_is_kept_in_the_cache_folder_and_found_again(tmp_path):
    cache = tmp_path / "cache"
    folder, hits = _small(tmp_path, DIFFUSPEC_CACHE=str(cache))
    assert Path(folder).parent == cache / "compiled" and hits == "0"
    assert _small(tmp_path, DIFFUSPEC_CACHE=str(cache)) == (folder, "1")
    for kept in Path(folder).rglob("*.nb?"):
        kept.write_bytes(kept.read_bytes()[:50])  # as a full disk or a crash may leave it
    assert _small(tmp_path, DIFFUSPEC_CACHE=str(cache)) == (folder, "0")
    assert _small(tmp_path, DIFFUSPEC_CACHE=str(cache))[0] == folder
    own = tmp_path / "own"
    assert Path(_small(tmp_path, DIFFUSPEC_CACHE=str(cache), NUMBA_CACHE_DIR=str(own))[0]).parent == own


@pytest.mark.slow
def test_without_a_place_in_the_cache_a_temporary_folder_serves_and_else_none(tmp_path):
    (tmp_path / "file").write_text("")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    nowhere = {"DIFFUSPEC_CACHE": str(tmp_path / "file"), "TMPDIR": str(temporary)}
    folder, _ = _small(tmp_path, **nowhere)
    assert temporary in Path(folder).parents
    own = Path(folder).parent
    for path in sorted(own.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    own.rmdir()
    own.write_text("")
    assert _small(tmp_path, **nowhere)[0] == "None"


def test_compiled_files_do_not_change_what_an_interrupted_bench_compares(tmp_path, monkeypatch):
    (tmp_path / "part/__pycache__").mkdir(parents=True)
    (tmp_path / "part/source.py").write_text("x = 1")
    monkeypatch.setattr(provenance, "PACKAGE", tmp_path)
    fingerprint = provenance.fingerprint.__wrapped__
    before = fingerprint("part")
    for name in ("source.pyc", "source.f-1.py311.nbi", "source.f-1.py311.1.nbc"):
        (tmp_path / "part/__pycache__" / name).write_bytes(b"compiled")
    assert fingerprint("part") == before
    (tmp_path / "part/source.py").write_text("x = 2")
    assert fingerprint("part") != before
