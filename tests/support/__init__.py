"""Builders of inputs, commands and comparisons that several test modules use; test modules never import each other."""
