"""Processes: composition of their components, start and stop, HTTP server, worker threads, periodic tasks."""
