"""Small models of every family, by the libraries' own constructors, and what their blocks hold."""
