"""Triton kernels of one Gauss-Newton step on nodes, and of the contrast and the match measures before and after it.

The equations of a step are in `normal_equations`. A level has features `(z, c, h, w)` and `valid` `(z, h, w)` of all
sections of a window; `pairs` `(n, 2)` int32 names the fixed and the moving section of every pair, so that nothing is
copied. Displacements, right sides and directions are `(n, 2, ny, nx)` float32. Sums over a pair are written as one
number per program, and added by the kernels that need them, always in the same order: results do not depend on timing.
All arithmetic is float32, whatever type the features are stored as.

Each kernel also runs in Triton's interpreter on a CPU, as the tests run it.
"""

NODE_COUNTS = ["ny", "nx", "ncy", "ncx", "programs"]
"""Arguments whose divisibility is not compiled in: they differ by level, and compiling costs more than it saves."""
