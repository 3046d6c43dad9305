"""Where paper, source and documentation are found."""

from __future__ import annotations

import configparser
import os
import re
from pathlib import Path

PAPER = "https://arxiv.org/abs/2510.02358"
CHECKOUT = Path(__file__).resolve().parents[3]


def source_url(checkout: Path = CHECKOUT) -> str | None:
    """The address of the source: of the Space that this runs on, else of the repository it was cloned from; None
    where that is no public address."""
    if space := os.environ.get("SPACE_ID"):
        return f"https://huggingface.co/spaces/{space}"
    config = configparser.ConfigParser(strict=False, interpolation=None)
    try:
        config.read(checkout / ".git" / "config", encoding="utf-8")
        cloned = config.get('remote "origin"', "url")
    except (configparser.Error, OSError, UnicodeDecodeError):
        return None
    # Never with a user's name or token in it.
    host, path = r"(?:https?://(?:[^/@]*@)?|(?:ssh://)?git@)([\w.-]+\.[a-z]+)", r"[:/]([\w./~-]+?)(?:\.git)?/?"
    found = re.fullmatch(host + path, cloned)
    return f"https://{found[1]}/{found[2]}" if found else None


def links() -> list[dict[str, str]]:
    """Words and addresses, as the page shows them; without those of the source where it has no address."""
    addresses = {"Paper": PAPER}
    if source := source_url():
        addresses |= {"Source": source, "Docs": f"{source}/tree/main/docs"}
    return [{"words": words, "href": href} for words, href in addresses.items()]
