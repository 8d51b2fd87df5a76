"""Which values a trial gets: Optuna's samplers, held to what fits and to what is new."""
