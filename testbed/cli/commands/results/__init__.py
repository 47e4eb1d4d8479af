"""Commands that look at results: sweep, rank, report, fault."""
