"""Methods replayed side by side, and the break-even map."""
