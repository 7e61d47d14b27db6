"""TerraTorch tasks, models and the Lightning trainer."""
