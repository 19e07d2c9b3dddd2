"""Meld's public API as the simulator implements it."""
