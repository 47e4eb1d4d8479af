"""What the page reads from a run folder."""
