"""Webhooks that the simulator sends: signature, mailbox, delivery and retries."""
