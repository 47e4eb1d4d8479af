"""Where protection goes under a budget: what each place gains, what it costs, and which of them are worth it together."""
