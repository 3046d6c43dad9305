"""Ways to decode, measured side by side; the paper's tables and figures made here."""
