"""Retention: the prune job, its cutoffs and rules, and the removal of old rows."""
