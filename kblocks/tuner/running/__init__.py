"""Runs a search: one trial, the loop of a process, the worker processes, and their display."""
