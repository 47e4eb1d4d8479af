"""What a campaign has so far: the store of rows, its one reader, progress and status."""
