"""Fields and affine maps that other tools wrote, as maps of points of one section."""
