"""One module for each figure: it arranges, measures and compares the result with its target."""
