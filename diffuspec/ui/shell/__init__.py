"""What every page stands on: the models' host, its queue, sessions, knobs and notices."""
