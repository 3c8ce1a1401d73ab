"""``gradreg bench``: the cost of each regularizer, as a ratio to a plain training step measured beside it."""
