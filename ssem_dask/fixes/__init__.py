"""Knowledge of a person about a stack, in words that the pipeline follows: the content of `fixes.toml`."""
