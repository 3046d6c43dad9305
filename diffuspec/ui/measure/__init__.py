"""The paper's tables and figures on this machine."""
