"""Triton kernels of one Gauss-Newton step on nodes, and of what surrounds it.

What a step computes is said in `normal_equations`. A level has features `(z, c, h, w)` and `valid` `(z, h, w)` of all
sections of a window; `pairs` `(n, 2)` int32 names the fixed and the moving section of every pair, so that nothing is
copied. Displacements, right sides and directions are `(n, 2, ny, nx)` float32. Sums over a pair are written as one
number a program and added up by whoever needs them, in the same order always: results do not depend on timing. All
arithmetic is float32, whatever the features are stored as.

Each kernel runs in Triton's interpreter on a CPU too, which is how the tests run it.
"""

NODE_COUNTS = ["ny", "nx", "ncy", "ncx", "programs"]
"""Arguments whose divisibility is not compiled in: every level has others, and compiling costs more than it saves."""
