"""One picture to one mesh: the stages, and the walk through them."""
