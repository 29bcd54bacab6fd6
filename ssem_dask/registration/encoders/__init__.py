"""Networks that turn images into features, their weight files and their training."""
