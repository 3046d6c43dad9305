"""Colours of the figures: Okabe and Ito's palette, safe for colour-blind readers.

Figures are built with the light theme's values. The player replaces each by the CSS variable of
the same name, so that a figure follows the theme of the page it stands on.
"""

COLOURS = {
    "accepted": "#0072B2",
    "accepted-soft": "#9CC9E6",
    "correction": "#D55E00",
    "bonus": "#009E73",
    "average": "#B87900",
    "quiet": "#8A94A3",
    "ink": "#17202B",
    "ink-soft": "#536070",
    "line": "#DFE4EA",
    "band": "#EAF3F9",
    "card": "#FFFFFF",
    "loss": "#F3C19B",
    "stage-draft": "#56B4E9",
    "stage-search": "#E69F00",
    "stage-verify": "#0072B3",
    "stage-commit": "#009E74",
    "stage-record": "#9AA5B3",
}
