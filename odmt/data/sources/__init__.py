"""One reader per form in which the data sets come."""
