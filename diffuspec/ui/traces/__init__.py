"""Recorded runs: cards, import, export, links."""
