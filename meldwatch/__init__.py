"""Meldwatch: a self-hosted service that mirrors Meld bank connections and reports each change once, in order.

This package is the program: its command line and its processes. The packages below it do the work.

- ``main``: the entry point.
- ``cli``: the command line. One module for each command in ``cli/commands``; ``cli/root`` is the table of commands,
  ``cli/options`` the filters of lists, ``cli/exit_codes`` the exit codes.
- ``process``: what runs. ``composition`` creates the components of a process (dependency injection), ``supervisor``
  starts and stops them. ``http_server``, ``worker_threads`` and ``periodic_task`` are components. ``handler_main`` is
  the main module of the processes that run handlers in Python.
- ``handlers``: what a module with handlers of events imports.

Only here are the clock, random ids and the environment read; the packages below get them as arguments.
"""
