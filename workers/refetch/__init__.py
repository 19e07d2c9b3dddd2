"""Refetch of a connection: lease, read of Meld, decision, commit, follow-up reads, retries; bulk import and dry run."""
