"""Registration of a window by Gauss-Newton on learned features."""
