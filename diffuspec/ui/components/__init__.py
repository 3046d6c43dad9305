"""Our own components: a Python file with its HTML, CSS and JavaScript beside it."""
