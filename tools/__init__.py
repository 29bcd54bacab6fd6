"""Programs of `make lint` and `make docs`."""
