"""Database migrations: ``run`` upgrades a database to the newest revision in ``versions``, ``env`` serves Alembic."""
