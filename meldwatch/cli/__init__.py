"""Command line: lazy loading of commands, options, output, exit codes."""
