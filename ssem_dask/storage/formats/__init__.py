"""Formats that volumes come in: each is a `Source` that reads any part of a volume in bounded memory."""
