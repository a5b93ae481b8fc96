"""From the readings of instruments to joules: record, keep, integrate, account for."""
