"""Finds the weight of a regularizer by training a few times."""
