"""The documentation site: what is made from the code, and how formulas are drawn."""
