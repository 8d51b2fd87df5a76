"""A search at work: one trial, the loop of a process, the processes, what they show."""
