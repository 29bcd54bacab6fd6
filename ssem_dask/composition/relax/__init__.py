"""Section fields by method `relax`."""
