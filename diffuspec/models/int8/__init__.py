"""Llama layers in 4- and 8-bit weights, compiled."""
