"""The user's data: read batch by batch, held against the model's inputs, and laid down for other children."""
