"""Whether a default weight can replace tuning: several forms of the penalty, on several kinds of tasks."""
