"""What any process needs to run: settings, database, broker, logs, metrics, clock, and the client of Meld."""
