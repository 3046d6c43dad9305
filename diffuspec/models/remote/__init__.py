"""A target that is a server: llama.cpp's, vLLM or SGLang. Token ids go over the wire, never text."""
