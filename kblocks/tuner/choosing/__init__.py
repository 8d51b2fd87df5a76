"""Chooses the point of each trial: Optuna samplers, limited to points that fit and are new."""
