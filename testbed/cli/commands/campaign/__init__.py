"""``testbed campaign`` and its subcommands."""
