"""Benchmark of fixing by hand: what a person does per spoilt section, what it costs, and what it mends."""
