"""Parts of a section that a fold, a crack or a seam moved against each other."""
