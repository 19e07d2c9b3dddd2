"""The command line, and how processes are put together: here alone clocks, ids, randomness and the environment enter."""
