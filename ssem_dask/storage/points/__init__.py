"""Files of points that belong together: skeletons and meshes."""
