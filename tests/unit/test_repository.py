"""What an outsider meets first: links, tables, requirements, and how large a clone is."""

from __future__ import annotations

import ast
import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import diffuspec
from scripts.generated_tables import BLOCK, TABLES, filled

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "assets/drafter/README.md"])
LARGE = 2**20
MODULES = {"yaml": "pyyaml"}  # where a package is imported under another name
NEEDED_BY_OTHERS = {"accelerate"}  # transformers imports it for `device_map`, which spreads a target over GPUs
OPTIONAL = {"xllamacpp", "pyarrow"}


def named(path: Path) -> list[Path]:
    return [pytest.param(path, id=str(path.relative_to(ROOT)))]


def anchors(path: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.S | re.M), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w-]+", line)[0].lower().replace("_", "-") for line in requirements if line.strip()}


def imported(*paths: Path) -> set[str]:
    """Top-level packages outside the standard library."""
    found = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"diffuspec"}


@pytest.mark.parametrize("path", [p for path in DOCUMENTS for p in named(path)])
def test_links_lead_somewhere(path):
    links = re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))
    broken = []
    for link in links:
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_tables_are_those_of_the_code():
    text = {path: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
    stale = [path.name for path, now in text.items() if filled(now) != now]
    assert not stale, "Run `python -m scripts.generated_tables`."
    assert {block[2] for now in text.values() for block in BLOCK.finditer(now)} == set(TABLES)


def test_readme_is_a_front_page_with_the_command_of_the_tests():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 130
    assert any(re.match(r"python3 .*-m pytest", line) for line in lines)
    assert lines[0] == "---", "A Space reads its settings there."


def test_what_is_imported_is_required_and_what_is_required_is_imported():
    required = names((ROOT / "requirements.txt").read_text().splitlines())
    modules = {
        MODULES.get(name, name.lower().replace("_", "-"))
        for name in imported(ROOT / "app.py", *(ROOT / "diffuspec").rglob("*.py")) - OPTIONAL
    }
    assert modules | NEEDED_BY_OTHERS == required


def test_the_package_asks_for_the_same_as_the_files():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    assert set((ROOT / "tests" / "requirements.txt").read_text().split()) <= set(extras["dev"])
    assert names(extras["llama"] + extras["parquet"]) == OPTIONAL
    hooks = project["tool"]["hatch"]["metadata"]["hooks"]
    assert hooks["requirements_txt"]["files"] == ["requirements.txt"]


def test_the_wheel_carries_every_asset_but_the_pictures():
    carried = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assets = {f"assets/{path.name}" for path in (ROOT / "assets").iterdir()} - {"assets/screenshots"}
    assert set(carried["force-include"]) == assets
    assert all(inside == f"diffuspec/{outside}" for outside, inside in carried["force-include"].items())


def test_the_version_is_told():
    done = subprocess.run(
        [sys.executable, "-m", "diffuspec", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["diffuspec", diffuspec.__version__]
    assert f"## {diffuspec.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_no_large_file_was_added_or_changed():
    """By content, so that it holds in a clone of one commit too."""
    listed = {
        tuple(line.split(maxsplit=1))
        for line in (ROOT / ".ci" / "large-files.txt").read_text().splitlines()
        if not line.startswith("#")
    }
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    large = set()
    for name in filter(None, tracked.split("\0")):
        path = ROOT / name
        if path.is_file() and path.stat().st_size > LARGE:
            content = path.read_bytes()
            large.add((hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(), name))
    assert large == listed, "See .ci/large-files.txt."
