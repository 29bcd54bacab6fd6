"""How one spoilt section affects the alignment of a stack: harm to the others, and whether it comes back."""
