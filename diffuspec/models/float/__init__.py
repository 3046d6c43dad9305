"""Llama layers in float32 and bfloat16, faster than stock and with the same bits."""
