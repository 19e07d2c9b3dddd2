"""Control API of the simulator under /sim: actions, faults, scripted reads and records, for tests and demos."""
