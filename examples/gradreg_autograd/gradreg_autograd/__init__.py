"""gradreg for HIPS autograd."""
