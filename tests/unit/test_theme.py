"""The colours of theme.css: text is readable on whatever it stands on, in both themes (WCAG AA: 4.5 to 1)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import diffuspec.ui

UI = Path(diffuspec.ui.__file__).parent
SURFACES = ("card", "well", "page", "warn", "good", "band")
TEXTS = ("ink", "ink-soft", "quiet", "correction", "bonus", "average", "accepted")


def colours(theme: str) -> dict[str, str]:
    """Name -> value in a theme; dark changes some of light's."""
    sheet = (UI / "draw" / "theme.css").read_text(encoding="utf-8")
    blocks = {"light": [r":root"], "dark": [r":root", r"\.dark"]}[theme]
    found = {}
    for block in blocks:
        body = re.search(rf"^{block}[^{{]* \{{(.*?)^\}}", sheet, re.S | re.M).group(1)
        found |= dict(re.findall(r"--ds-([\w-]+): ([^;]+);", body))
    return found


def rgb(value: str) -> tuple[float, ...]:
    if value.startswith("#"):
        return tuple(int(value[i : i + 2], 16) for i in (1, 3, 5))
    return tuple(float(part) for part in value.split(","))


def luminance(colour) -> float:
    parts = [c / 255 / 12.92 if c <= 10.31 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(one, other) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_of_black_on_white():
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_is_readable_on_every_surface(theme):
    found = colours(theme)
    poor = {
        (text, surface): round(contrast(rgb(found[text]), rgb(found[surface])), 2)
        for text in TEXTS
        for surface in SURFACES
        if contrast(rgb(found[text]), rgb(found[surface])) < 4.5
    }
    assert not poor


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_cell_is_readable_at_every_q(theme):
    found = colours(theme)
    sheet = (UI / "player" / "lattice.css").read_text(encoding="utf-8")
    base, slope = re.search(r"rgba\(var\(--ds-heat\), calc\(([\d.]+) \+ ([\d.]+) \* var\(--q", sheet).groups()
    for q in range(0, 101):
        alpha = float(base) + float(slope) * q / 100
        ground = [alpha * h + (1 - alpha) * c for h, c in zip(rgb(found["heat"]), rgb(found["card"]), strict=True)]
        assert contrast(rgb(found["ink"]), ground) >= 4.5, q
