"""The command line, and how processes are put together: only here do clock, ids and environment come in."""
