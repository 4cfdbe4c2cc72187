"""The search: spaces, samplers, schedulers, trials and the event log they stand on."""
