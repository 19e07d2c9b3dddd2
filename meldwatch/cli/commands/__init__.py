"""One module for each command or command group of ``meldwatch``, named as the command; ``serve`` has the processes."""
