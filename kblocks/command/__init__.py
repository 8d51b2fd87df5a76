"""The command line: its commands, the searches they run, what a search leaves."""
