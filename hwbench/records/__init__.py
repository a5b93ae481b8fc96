"""Records: what the stages hand to each other. Frozen, checked, versioned on disk; no I/O and no torch here."""
