"""Planning and driving a run: what is pending, what is invalid, what is damaged."""
