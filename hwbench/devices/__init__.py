"""Find and describe devices, and read what is known about their kind."""
