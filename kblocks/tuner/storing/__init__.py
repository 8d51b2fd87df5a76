"""The storage of a search: database, checkpoints, owners of trials, and checks of its identity."""
