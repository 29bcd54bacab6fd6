"""The metrics, one concept per file: arrays in, numbers out.

Notation: d_z is the known deformation, observed → truth; f_z is the recovered field, aligned → observed. Both are pull
fields (C5), so c_z = compose(outer=d_z, inner=f_z) maps aligned → truth. A perfect alignment makes c_z the same map for
every z; that common map, the *gauge*, is arbitrary. Errors are compared on a grid of 4 px; NaN (C8) marks nodes that do
not count.
"""
