"""The command line ``gradreg``, and what its commands share."""
