"""Functions compiled by numba, kept on disk from one start to the next.

numba keeps what it compiles beside the source and looks only at that one file to see whether it is out of date; but a
compiled function holds the code of those that it calls, wherever they stand. Here compiled code lies in a folder of
the user's cache that is named by a hash of all compiled sources, of numba's version and of the processor: a change
anywhere finds an empty folder. Where nothing can be written (a container's user without a home, a full disk), a
temporary folder takes its place, and without that every start compiles anew.

Environment: DIFFUSPEC_CACHE names the cache folder, NUMBA_CACHE_DIR one for compiled code alone.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import llvmlite
import llvmlite.binding
import numba

from diffuspec.cache import cache_dir, temporary_dir

PACKAGE = Path(__file__).parent
# All that a compiled function is made of: its own file, and those it takes functions and constants from.
SOURCES = (
    "compilation.py",
    "method/compiled/__init__.py",
    "method/compiled/beam.py",
    "method/compiled/columns.py",
    "method/compiled/copies.py",
    "method/compiled/exact.py",
    "method/compiled/options.py",
    "method/compiled/proxies.py",
    "method/compiled/tree.py",
    "models/gguf/blocks.py",
    "models/int8/__init__.py",
    "models/int8/arguments.py",
    "models/int8/arithmetic.py",
    "models/int8/attention.py",
    "models/int8/layers.py",
    "models/int8/layout.py",
    "models/int8/llvm.py",
    "models/int8/product.py",
    "models/int8/ranks.py",
    "models/int8/rounding.py",
    "models/int8/threads.py",
    "models/ranking.py",
)
KEPT_FOLDERS = 4  # compiled code of so many editions stays, those used last
_STAMP = "used"  # a file whose time says when a folder was used last

_log = logging.getLogger(__name__)


def compiled(**options) -> Callable:
    """As `numba.njit(**options)`, with what it compiles kept in `code_dir()` where that is possible."""

    def decorate(function: Callable):
        folder = code_dir()
        if folder is None:
            return numba.njit(**options)(function)
        before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(folder)
        try:
            dispatcher = numba.njit(cache=True, **options)(function)
        except RuntimeError:  # the folder went away, or the source is in no file
            return numba.njit(**options)(function)
        finally:
            numba.config.CACHE_DIR = before
        _bear_losses(dispatcher._cache)
        return dispatcher

    return decorate


def _bear_losses(cache) -> None:
    """Compile again what cannot be read, and do without what cannot be written: a full disk, half a file."""
    load, save = cache.load_overload, cache.save_overload

    def load_if_possible(*arguments):
        try:
            return load(*arguments)
        except Exception as error:  # noqa: BLE001  whatever unpickling a damaged file raises
            _log.debug("compiled code cannot be read: %s", error)
            return None

    def save_if_possible(*arguments):
        try:
            save(*arguments)
        except Exception as error:  # noqa: BLE001
            _log.debug("compiled code cannot be kept: %s", error)
            try:
                cache.flush()  # a damaged index would stand in the way the next time too
            except OSError:
                pass

    cache.load_overload, cache.save_overload = load_if_possible, save_if_possible


@functools.cache
def code_dir() -> Path | None:
    """The folder for compiled code of these sources, None where none can be written."""
    own = os.environ.get("NUMBA_CACHE_DIR")
    roots = [Path(own)] if own else []
    roots += [cache_dir() / "compiled", temporary_dir()]
    return first_writable(roots, edition())


def edition() -> str:
    """A hash of the sources, of numba and of the processor, in hexadecimal."""
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update(name.encode() + b"\0" + (PACKAGE / name).read_bytes() + b"\0")
    cpu = numba.config.CPU_NAME, numba.config.CPU_FEATURES
    if cpu == (None, None):
        cpu = llvmlite.binding.get_host_cpu_name(), llvmlite.binding.get_host_cpu_features().flatten()
    digest.update(repr((numba.__version__, llvmlite.__version__, cpu)).encode())
    return digest.hexdigest()[:16]


def first_writable(roots: Iterable[Path], name: str) -> Path | None:
    """The folder `name`, made where it is missing, in the first of the roots where files can be written.

    Older folders beside it go. One that others own or may write to is passed over, since compiled code is run.
    """
    for root in roots:
        folder = root / name
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not (_is_own(root) and _is_own(folder)):
                continue
            with tempfile.TemporaryFile(dir=folder):
                pass
            (folder / _STAMP).touch()
        except OSError:
            continue
        _prune(root, folder)
        return folder
    return None


def _is_own(folder: Path) -> bool:
    if not hasattr(os, "getuid"):
        return True
    known = folder.stat()
    return known.st_uid == os.getuid() and not known.st_mode & stat.S_IWOTH


def _prune(root: Path, used: Path) -> None:
    """Remove all but the KEPT_FOLDERS folders of compiled code that were used last."""
    found = []
    for stamp in root.glob(f"*/{_STAMP}"):
        try:
            found.append((stamp.stat().st_mtime, stamp.parent))
        except OSError:  # another process has just removed it
            continue
    for _, folder in sorted(found)[:-KEPT_FOLDERS]:
        if folder != used:
            shutil.rmtree(folder, ignore_errors=True)
