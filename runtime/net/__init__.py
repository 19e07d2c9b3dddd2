"""Outbound HTTP: a client with one deadline, the SSRF guard, the client of Meld, the client of pushes."""
