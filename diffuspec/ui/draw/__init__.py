"""Colours, charts and the drawing shared by all pictures."""
