"""The first page: type a prompt, run it, walk through what happened."""
