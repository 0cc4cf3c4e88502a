"""The networks and nothing else: tensors in, tensors out; no files, no meshes, no pictures."""
