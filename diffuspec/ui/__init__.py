"""The playground: everything it shows is drawn from a `Trace`."""
