"""Re-fetch of a connection: lease, read of Meld, decision, commit, follow-up reads, retries."""
