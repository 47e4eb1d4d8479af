"""What a campaign draws: strata, faults, units of work, and the rounds of an adaptive plan."""
