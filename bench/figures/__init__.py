"""One module for each figure: it arranges, measures and compares with the target."""
