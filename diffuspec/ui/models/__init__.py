"""The line under the title that says which models compute, and the list to choose others from."""
