"""Which recorded trace the page opens with."""

from __future__ import annotations

import shutil

from diffuspec.trace.gallery import MANIFEST, TRACES, gallery
from diffuspec.ui.shell.files import recorded


def test_the_first_of_the_gallery_opens_the_page():
    trace, problem = recorded(TRACES)
    assert problem is None
    assert trace.prompt == gallery()[0].prompt == "What is photosynthesis, and why is it important for life on Earth?"


def test_the_next_one_stands_in_for_a_damaged_one_and_a_folder_without_a_list_is_read_by_name(tmp_path):
    for name in ("1-maths", "code"):
        shutil.copy(gallery().path(name), tmp_path)
    assert recorded(tmp_path)[0].prompt == gallery().named("1-maths").prompt
    (tmp_path / "code.jsonl.gz").rename(tmp_path / "5-question.jsonl.gz")
    shutil.copy(TRACES / MANIFEST, tmp_path)
    assert recorded(tmp_path)[0].prompt == gallery().named("code").prompt
    (tmp_path / "5-question.jsonl.gz").write_bytes(b"damaged")
    assert recorded(tmp_path)[0].prompt == gallery().named("1-maths").prompt
    (tmp_path / "1-maths.jsonl.gz").write_bytes(b"damaged")
    trace, problem = recorded(tmp_path)
    assert trace is None and "1-maths" in problem
