"""The metrics, one concept per file; arrays in, numbers out.

Notation: d_z is the known deformation, observed → truth; f_z the recovered field, aligned → observed; both pull (C5).
c_z = compose(outer=d_z, inner=f_z) maps aligned → truth. A perfect alignment makes c_z the same map for every z; which
map that is, the *gauge*, is free. Comparisons are made on a grid of 4 px; NaN (C8) marks nodes that do not count.
"""
