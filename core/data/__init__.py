"""Training sets: procedural shapes as signed distance functions, their pictures and their fields."""
