"""Images: pooling, tissue masks, similarity."""
