"""Energy instruments, one a file."""
