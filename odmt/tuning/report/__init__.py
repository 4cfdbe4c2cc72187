"""A study's report: one page, tables and a protocol card, all derived from its event log alone."""
