"""Full-ranking metrics and the plain rankers beside them."""
