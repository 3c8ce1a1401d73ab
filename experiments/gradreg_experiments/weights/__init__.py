"""Whether one default weight can replace the search for it: several forms of the penalty, on tasks of several kinds."""
