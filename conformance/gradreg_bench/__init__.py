"""``gradreg bench``: what each regularizer costs, as a ratio to a plain training step measured beside it."""
