"""Registration of a window as in ssEMnet (Yoo et al. 2017): optimise a vector map on learned features."""
