"""Activity in the simulated world: the connections that it begins with, and what happens at random."""
