"""The revisions, oldest first: plain SQLAlchemy types, so that none changes when the tables' classes do."""
