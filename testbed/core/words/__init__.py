"""Text for people: what is printed, and what somebody may have meant."""
