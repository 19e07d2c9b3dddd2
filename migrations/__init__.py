"""The schema's history: ``run`` brings a database to the newest revision of ``versions``, ``env`` serves Alembic."""
