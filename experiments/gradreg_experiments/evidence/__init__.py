"""Where a gradient penalty pays off and where it does not: small data, rivals with the same tuning budget."""
