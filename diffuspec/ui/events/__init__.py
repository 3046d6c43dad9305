"""What happens on click, one file a concern; each handler's docstring names its outputs after `->`."""
