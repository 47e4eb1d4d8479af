"""What campaigns take from each other: prepared files and shown gates, kept in a cache folder that the user named."""
