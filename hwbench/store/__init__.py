"""What was measured before, in SQLite or another database."""
