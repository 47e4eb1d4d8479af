"""Rankings of components, held against what a campaign measured."""
