"""Reconcile: Meld's whole list compared with the mirror; the difference is the drift."""
