"""Section fields by chained composition, voting and blocks."""
