"""The command line ``gradreg``, and the helpers that its commands share."""
