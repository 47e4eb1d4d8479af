"""Finished campaigns for papers and pages: rates of several runs in one table, one figure and one page; what runs there are."""
