"""MLflow: runs, the registry and the served model."""
