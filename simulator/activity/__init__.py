"""Activity of the simulated account: the initial population, and random actions."""
