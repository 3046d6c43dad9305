"""Beside transformers' own `generate`: this engine behind its door, and its assisted generation written down."""
