"""What a person knows about a stack, in words that the pipeline follows: the content of `fixes.toml`."""
