"""Registration of pairs on GPUs: the equations of `gauss_newton` in few kernels and one CUDA graph."""
