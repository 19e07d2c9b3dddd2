"""Encryption of stored secrets, redaction of credentials, JSON parsing of untrusted input."""
