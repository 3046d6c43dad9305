"""All that holds weights: targets, drafters, and the pairs they form."""
