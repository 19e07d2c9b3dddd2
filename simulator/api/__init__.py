"""Meld's public API as the simulator answers it."""
