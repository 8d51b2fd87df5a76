"""The command line: the commands, the searches they run, and a search's final files."""
