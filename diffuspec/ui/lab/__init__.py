"""One recorded step, searched and verified again."""
