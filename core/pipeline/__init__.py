"""One picture to one mesh: devices, stages, progress and the whole walk."""
