"""Retention: the prune job, its cutoffs by age and its rules, the scan of each table, and the removal of old rows."""
