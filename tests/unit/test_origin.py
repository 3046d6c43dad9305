"""Where the page says that its source is."""

from __future__ import annotations

import pytest

from diffuspec.ui.shell.origin import links, source_url


@pytest.mark.parametrize(
    "cloned, said",
    [
        ("https://github.com/someone/diffuspec.git", "https://github.com/someone/diffuspec"),
        (
            "https://someone:secret@huggingface.co/spaces/someone/diffuspec",
            "https://huggingface.co/spaces/someone/diffuspec",
        ),
        ("git@github.com:someone/diffuspec.git", "https://github.com/someone/diffuspec"),
        ("ssh://git@codeberg.org/someone/diffuspec/", "https://codeberg.org/someone/diffuspec"),
        ("/srv/diffuspec", None),
        ("file:///srv/diffuspec", None),
        ("https://localhost/diffuspec", None),
        ("javascript:alert(1)//example.org/x", None),
    ],
)
def test_the_source_is_where_it_was_cloned_from(tmp_path, monkeypatch, cloned, said):
    monkeypatch.delenv("SPACE_ID", raising=False)
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "config").write_text(f'[core]\n\tbare = false\n[remote "origin"]\n\turl = {cloned}\n')
    assert source_url(tmp_path) == said


def test_a_space_names_itself_and_no_clone_names_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("SPACE_ID", "someone/space")
    assert [link["href"] for link in links()] == [
        "https://arxiv.org/abs/2510.02358",
        "https://huggingface.co/spaces/someone/space",
        "https://huggingface.co/spaces/someone/space/tree/main/docs",
    ]
    monkeypatch.delenv("SPACE_ID")
    assert source_url(tmp_path) is None
