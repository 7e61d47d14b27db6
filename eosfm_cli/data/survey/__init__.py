"""Looking at a folder that nobody has described yet, and guessing a recipe for it."""
