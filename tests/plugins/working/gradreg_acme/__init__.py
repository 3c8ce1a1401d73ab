"""A backend from a third party, for linear models only."""
