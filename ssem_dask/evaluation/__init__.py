"""Evaluation: phantoms and known deformations with exact truth, the metrics, and the protocol that applies them."""
