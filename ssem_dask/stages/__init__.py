"""The stages: each is a config, `prepare`, `generations` of independent tasks, and `run`: read → core → write."""
