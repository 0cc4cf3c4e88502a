# SPDX-License-Identifier: GPL-3.0-or-later
"""More steps than the model's own, all of its mesh."""

import bpy

settings = bpy.context.scene.s2mesh
settings.resolution = 0
settings.use_dense_steps = True
settings.dense_steps = 50
settings.use_sparse_steps = True
settings.sparse_steps = 30
settings.use_dense_guidance = False
settings.use_sparse_guidance = False
settings.use_iso_level = False
settings.use_max_tokens = False
settings.use_faces = False
settings.interior = "sign"
settings.remove_interior = True
settings.remove_floaters = True
