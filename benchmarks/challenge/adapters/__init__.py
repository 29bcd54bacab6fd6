"""Adapters of the challenge: each file but the template is one method."""
