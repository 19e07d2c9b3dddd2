"""Reconcile: compare Meld's whole list of connections with the mirror, and repair the drift."""
