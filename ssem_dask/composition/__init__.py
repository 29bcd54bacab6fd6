"""Composition: from pair fields to one field per section. Tensors in, tensors out; no storage and no scheduler."""
