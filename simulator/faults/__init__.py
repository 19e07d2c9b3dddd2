"""Fault injection: settings, probabilities, and scripts for the next reads."""
