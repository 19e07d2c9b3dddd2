"""Ingestion of Meld's webhooks: endpoint, signature verification, payload, inbox, notification of workers."""
