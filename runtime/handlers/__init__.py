"""Event handlers in Python run in child processes: the pool of them, and one child process."""
