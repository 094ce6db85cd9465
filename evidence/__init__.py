"""Claims of the field, each tried on the package's own texts: arms, seeds, a table, a verdict."""
