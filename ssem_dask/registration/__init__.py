"""Registration of neighbour sections: tensors in, tensors out; no storage and no scheduler."""
