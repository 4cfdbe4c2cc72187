"""The file that MLflow runs to make the registered model ("models from code"); not for importing."""

from mlflow.models import set_model

from odmt.tracking.served_model import ServedModel

set_model(ServedModel())
