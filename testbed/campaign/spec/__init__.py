"""What a campaign is asked to do: the spec, its fields and tables, how a file becomes one."""
