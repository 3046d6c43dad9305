"""What happened in a run: its model, what writes it down, what replays it."""
