"""Stand-ins of models, checkpoints and files that the tests share."""
