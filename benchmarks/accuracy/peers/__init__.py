"""Other aligners, set as a user who knows them would set them; each says its settings where they stand."""
