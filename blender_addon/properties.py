# SPDX-License-Identifier: GPL-3.0-or-later
"""What is set for the next generation (on the Scene, saved and undone with it) and what the panel has open (on the
WindowManager, never saved). Nothing about a job stands on the Scene: undo would bring stale states back.
"""

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, PointerProperty, StringProperty
from bpy.types import PropertyGroup

MAX_COUNT = 16  # seeds at once; more would only fill the queue

# Limits here are those of Blender's fields; the server's own are applied at use, see option_checks.py.
ORIGINS = (
    ("BASE", "Base", "The origin is in the middle of the underside, so that the object stands on the ground"),
    ("CENTER", "Center", "The origin is in the middle of the bounding box"),
)
PLACES = (
    ("CURSOR", "3D Cursor", "Place the result at the 3D cursor, as it is when you click Generate"),
    ("WORLD", "World Origin", "Place the result at the origin of the world"),
)
BACKGROUNDS = (
    ("auto", "Automatic", "Use the picture's transparency; without any, cut a plain background away"),
    ("alpha", "Transparency", "Use the picture's transparency alone"),
    ("none", "Keep", "The whole picture is the object"),
)

INTERIORS = (
    ("sign", "By Model", "The model tells inside from outside, if it has a network for that"),
    ("flood", "Fill", "What no path from outside reaches is filled"),
    ("keep", "Keep", "Nothing is removed, enclosed parts neither"),
)


# What an operator of the same name has as well.
SEED = dict(
    name="Seed",
    description="Where the random numbers start: another seed gives another shape, the same gives the same",
    min=0,
)
RESOLUTION = dict(
    name="Resolution",
    description="Stop after the detail stage of so many voxels a side: faster and coarser. 0: the model's last",
    min=0,
    max=4096,
)
PRESET = dict(
    name="Model",
    description="Set of models that makes the shape. Empty: the server's own choice",
)
FACES = dict(
    name="Faces",
    description="Simplify the mesh to at most so many triangles",
    min=4,
    max=50_000_000,
    soft_max=2_000_000,
    default=50_000,
    step=1000,
)
REMOVE_INTERIOR = dict(
    name="Remove Interior",
    description="Remove parts that lie unseen inside others",
    default=True,
)
REMOVE_FLOATERS = dict(
    name="Remove Loose Pieces",
    description="Remove small loose pieces",
    default=True,
)
BACKGROUND = dict(
    name="Background",
    description="How the object is told from its background",
    items=BACKGROUNDS,
    default="auto",
)
INTERIOR = dict(
    name="Inside",
    description="What becomes of what hides inside the shape",
    items=INTERIORS,
    default="sign",
)
DENSE_STEPS = dict(
    name="Coarse Steps",
    description="Sampling steps of the coarse shape; more take longer",
    min=1,
    max=1000,
    soft_max=100,
    default=25,
)
SPARSE_STEPS = dict(
    name="Detail Steps",
    description="Sampling steps of each detail stage; more take longer",
    min=1,
    max=1000,
    soft_max=100,
    default=15,
)
DENSE_GUIDANCE = dict(
    name="Coarse Guidance",
    description="How closely the coarse shape follows the picture; 0 and 1 are without guidance",
    min=0.0,
    max=50.0,
    soft_max=15.0,
    default=5.0,
    precision=2,
)
SPARSE_GUIDANCE = dict(
    name="Detail Guidance",
    description="How closely the details follow the picture; 0 and 1 are without guidance",
    min=0.0,
    max=50.0,
    soft_max=15.0,
    default=5.0,
    precision=2,
)
ISO_LEVEL = dict(
    name="Thickness",
    description="Where the surface is cut, from inside (-1) to outside (1); more is thicker",
    min=-0.99,
    max=0.99,
    default=0.0,
    precision=2,
)
MAX_TOKENS = dict(
    name="Largest Shape",
    description="Refuse a shape with more occupied cells than this, to save memory",
    min=1,
    max=10_000_000,
    default=65_536,
)
SIZE = dict(
    name="Size",
    description="Length of the result's longest side",
    min=0.0001,
    soft_min=0.01,
    soft_max=100.0,
    default=1.0,
    unit="LENGTH",
    precision=3,
)
ORIGIN = dict(name="Origin", description="Where the result's origin is", items=ORIGINS, default="BASE")
PLACE_AT = dict(name="Place At", description="Where the result is put", items=PLACES, default="CURSOR")
REPLACE = dict(
    name="Replace Selected",
    description="Give the active mesh object the new shape; its transform, materials and modifiers stay",
)
SMOOTH = dict(name="Shade Smooth", description="Shade the result smooth", default=True)
COUNT = dict(
    name="Results",
    description="How many results to make, each with another seed; they are set in a row",
    min=1,
    max=MAX_COUNT,
    default=1,
)


class S2MeshSettings(PropertyGroup):
    """Settings of the next generation. A value that is not in use is the preset's own or the server's."""

    picture: PointerProperty(
        name="Picture",
        description="Picture of the object. One object, seen from slightly above, on a plain or transparent "
        "background works best",
        type=bpy.types.Image,
        # No `poll`: Blender 4.2 calls it once more at exit, when the extension that gave it was replaced, and crashes.
        # Images that hold no picture, such as Viewer Node, are refused when they are read (pictures.py).
    )

    preset: StringProperty(**PRESET)
    resolution: IntProperty(**RESOLUTION)
    use_random_seed: BoolProperty(
        name="New Seed Each Time",
        description="Draw a new seed for every result, so that each click gives another shape",
        default=True,
    )
    seed: IntProperty(**SEED)
    count: IntProperty(**COUNT)

    use_faces: BoolProperty(name="Limit Faces", description="Simplify the mesh to a number of triangles")
    faces: IntProperty(**FACES)
    remove_interior: BoolProperty(**REMOVE_INTERIOR)
    remove_floaters: BoolProperty(**REMOVE_FLOATERS)
    background: EnumProperty(**BACKGROUND)
    interior: EnumProperty(**INTERIOR)

    use_dense_steps: BoolProperty(name="Set Coarse Steps", description="Use this number instead of the model's own")
    dense_steps: IntProperty(**DENSE_STEPS)
    use_sparse_steps: BoolProperty(name="Set Detail Steps", description="Use this number instead of the model's own")
    sparse_steps: IntProperty(**SPARSE_STEPS)
    use_dense_guidance: BoolProperty(
        name="Set Coarse Guidance", description="Use this number instead of the model's own"
    )
    dense_guidance: FloatProperty(**DENSE_GUIDANCE)
    use_sparse_guidance: BoolProperty(
        name="Set Detail Guidance", description="Use this number instead of the model's own"
    )
    sparse_guidance: FloatProperty(**SPARSE_GUIDANCE)
    use_iso_level: BoolProperty(name="Set Thickness", description="Use this number instead of the model's own")
    iso_level: FloatProperty(**ISO_LEVEL)
    use_max_tokens: BoolProperty(name="Set Largest Shape", description="Use this number instead of the model's own")
    max_tokens: IntProperty(**MAX_TOKENS)

    size: FloatProperty(**SIZE)
    origin: EnumProperty(**ORIGIN)
    place_at: EnumProperty(**PLACE_AT)
    replace: BoolProperty(**REPLACE)
    smooth: BoolProperty(**SMOOTH)


class S2MeshState(PropertyGroup):
    """What the panel has open. The states of server and jobs are computed from app_state, never stored."""

    open_job: StringProperty(name="Open Job", description="The job whose details are shown", options={"SKIP_SAVE"})
    shown_jobs: IntProperty(
        name="Shown Jobs", description="How many jobs the list shows", min=1, default=6, options={"SKIP_SAVE"}
    )


CLASSES = (S2MeshSettings, S2MeshState)


def register() -> None:
    bpy.types.Scene.s2mesh = PointerProperty(type=S2MeshSettings, name="S2 Mesh")
    bpy.types.WindowManager.s2mesh = PointerProperty(type=S2MeshState, name="S2 Mesh")


def unregister() -> None:
    for owner in (bpy.types.Scene, bpy.types.WindowManager):
        if hasattr(owner, "s2mesh"):
            del owner.s2mesh
