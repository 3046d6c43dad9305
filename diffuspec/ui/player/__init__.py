"""A trace as a picture to walk through; all of it is drawn from the trace alone."""
