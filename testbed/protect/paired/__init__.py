"""What protection bought: two finished campaigns, of a plain and of its protected model, over the same faults."""
