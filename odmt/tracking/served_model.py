"""The registered model as an MLflow pyfunc."""

from typing import Any

from mlflow.pyfunc import PythonModel, PythonModelContext
from pydantic import BaseModel

from odmt.tracking.recommender import Recommender, read_package

DEFAULT_TOP_K = 10


class Place(BaseModel):
    """One place of a ranked list."""

    rank: int
    item_id: str
    title: str
    score: float


class ServedModel(PythonModel):
    """Histories of external item ids in, ranked items with titles and scores out."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load weights, item vectors and names from the model's artifacts; nothing is unpickled."""
        self.recommender: Recommender = read_package(context.artifacts)

    def predict(
        self,
        context: PythonModelContext,
        model_input: list[list[str]],
        params: dict[str, Any] | None = None,
    ) -> list[list[Place]]:
        """Rank the items for each history.

        Args:
            context: not needed once loaded.
            model_input: external item ids a user, the most recent last.
            params: ``top_k``, places a list; 10 by default.

        Returns:
            For each history its ranked list.

        Raises:
            DataError: an empty history or an unknown item; names it.
        """
        top_k = int((params or {}).get("top_k", DEFAULT_TOP_K))
        lists = self.recommender.recommend(model_input, top_k)
        return [[Place(**place._asdict()) for place in places] for places in lists]
