"""Control API of the simulator: actions, faults, scripts and records, for tests and demos."""
