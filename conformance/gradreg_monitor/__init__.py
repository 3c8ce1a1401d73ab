"""Watches a training: norms of the Jacobian, penalties, and the share of the penalty in the gradient."""
