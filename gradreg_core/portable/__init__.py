"""Networks described without a framework."""
