"""What each choice loses: a database of candidates, stitched together and run."""
