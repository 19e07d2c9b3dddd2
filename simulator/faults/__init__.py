"""Faults on demand: settings, probabilities, and the script of coming reads."""
