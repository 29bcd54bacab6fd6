"""Benchmark of fixing by hand: actions of a person per spoilt section, cost, and error before and after."""
