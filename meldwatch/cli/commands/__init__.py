"""One module for each command or group of commands of ``meldwatch``, named as the command."""
