"""Notification of waiting feed readers: within this process, and from PostgreSQL by LISTEN."""
