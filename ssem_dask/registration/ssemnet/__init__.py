"""Registration of a window as in ssEMnet (Yoo et al. 2017): a vector map optimised on learned features."""
