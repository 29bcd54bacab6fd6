"""Gauss-Newton registration of pairs for GPUs: the same equations as `gauss_newton`, in few kernels and one CUDA graph."""
