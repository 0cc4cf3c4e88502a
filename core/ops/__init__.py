"""Stateless functions on plain tensors, each with a slow reference and any number of fast backends.

==========================  =================================================================================
op                          contract
==========================  =================================================================================
``compressed_attention``    queries attend to one pooled token per block; output and log-sum-exp
``select_blocks``           the blocks with the highest attention, per token and key head
``selected_attention``      queries attend to the tokens of their selected blocks
``window_attention``        tokens attend to the tokens of their window
``submanifold_conv3d``      sparse 3D convolution with outputs only where inputs are
``subdivided_conv3d``       the same on the 8 children of every voxel, from the parents' features
``brick_conv3d``            both on voxels cut up again and again, from the coarsest neighbour map
==========================  =================================================================================

The four attention ops are in :mod:`core.ops.ssa`, the convolutions in :mod:`core.ops.submanifold_conv` and
:mod:`core.ops.brick_conv`; :mod:`core.ops.backend` says which backend runs and why.
"""
