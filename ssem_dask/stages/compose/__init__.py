"""Stage compose."""
