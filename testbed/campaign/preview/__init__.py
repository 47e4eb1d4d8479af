"""What a campaign would do, told before it runs: plan, sites, cost, obstacles."""
