"""``gradreg demo``: gradient regularization against its rivals on few labelled digits, in about a minute on a CPU."""
