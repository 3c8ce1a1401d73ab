"""Where a penalty on gradients pays, and where it does not: small data, rivals with the same budget for tuning."""
