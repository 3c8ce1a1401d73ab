"""The conformance kit: property-based proof that a backend computes the right penalties and second-order gradients."""
