# SPDX-License-Identifier: GPL-3.0-or-later
"""A picture file dropped on the viewport becomes a job whose mesh will stand where it was dropped."""

from pathlib import Path

from bpy.props import CollectionProperty, FloatVectorProperty, StringProperty
from bpy.types import Context, Event, FileHandler, Operator, OperatorFileListElement
from bpy_extras import view3d_utils
from mathutils import Vector

from . import app_state, server_control, submission
from .client_errors import S2MeshError
from .option_checks import options_from
from .preferences import preferences
from .translations import t

EXTENSIONS = ".png;.jpg;.jpeg;.webp;.bmp;.tif;.tiff"
_MOST = 16  # files in one drop


def point_under(context: Context, x: float, y: float) -> Vector | None:
    """Where the mouse points at in the scene: on a surface, else on the floor, else in front of the view."""
    region, view = context.region, context.region_data
    if region is None or view is None:
        return None
    origin = view3d_utils.region_2d_to_origin_3d(region, view, (x, y))
    direction = view3d_utils.region_2d_to_vector_3d(region, view, (x, y))
    hit, place, *_ = context.scene.ray_cast(context.evaluated_depsgraph_get(), origin, direction)
    if hit:
        return place
    return on_floor(origin, direction) or view3d_utils.region_2d_to_location_3d(
        region, view, (x, y), view.view_location
    )


def on_floor(origin: Vector, direction: Vector) -> Vector | None:
    """Where a ray meets the plane z = 0; None if it goes along it or away from it."""
    if abs(direction.z) < 1e-6:
        return None
    distance = -origin.z / direction.z
    return origin + direction * distance if distance > 0 else None


class S2MESH_OT_GenerateDropped(Operator):
    """Make a mesh of each dropped picture, at the place where it was dropped"""

    bl_idname = "s2mesh.generate_dropped"
    bl_label = "Generate S2 Mesh"
    bl_options = {"REGISTER", "INTERNAL"}

    filepath: StringProperty(
        name="File", description="The dropped file", subtype="FILE_PATH", options={"SKIP_SAVE", "HIDDEN"}
    )
    directory: StringProperty(
        name="Folder", description="Where the dropped files are", subtype="DIR_PATH", options={"SKIP_SAVE", "HIDDEN"}
    )
    files: CollectionProperty(
        name="Files",
        description="Names of several dropped files",
        type=OperatorFileListElement,
        options={"SKIP_SAVE", "HIDDEN"},
    )
    location: FloatVectorProperty(
        name="Location",
        description="Where the first mesh will stand; without it at the 3D cursor",
        subtype="TRANSLATION",
        options={"SKIP_SAVE"},
    )

    @classmethod
    def poll(cls, _context: Context) -> bool:
        return app_state.current() is not None

    def invoke(self, context: Context, event: Event) -> set[str]:
        point = point_under(context, event.mouse_region_x, event.mouse_region_y)
        if point is not None:
            self.location = point
        return self.execute(context)

    def execute(self, context: Context) -> set[str]:
        paths = [Path(self.directory) / entry.name for entry in self.files if entry.name] or [Path(self.filepath)]
        given = self.properties.is_property_set("location")
        place = Vector(self.location) if given else context.scene.cursor.location.copy()
        sent = 0
        for path in paths[:_MOST]:
            try:
                picture, source = submission.picture_of(path)
                (record,) = submission.submit(
                    context, picture, source, options_from(context.scene.s2mesh), count=1, location=place
                )
            except S2MeshError as error:
                self.report({"ERROR"}, str(error))
                continue
            sent += 1
            place.x += record.placement.size * 1.25
        if not sent:
            return {"CANCELLED"}
        self._need_server(context)
        return {"FINISHED"}

    def _need_server(self, context: Context) -> None:
        app = app_state.current()
        if not server_control.could_start(app):
            self.report({"INFO"}, t("Sent to the server"))
        elif preferences(context).auto_start == "ALWAYS":
            server_control.start(app)
        else:
            self.report({"WARNING"}, t("The server is not running. Press Start; the picture is sent then"))


class S2MESH_FH_picture(FileHandler):
    bl_idname = "S2MESH_FH_picture"
    bl_label = "S2 Mesh"
    bl_import_operator = "s2mesh.generate_dropped"
    bl_file_extensions = EXTENSIONS

    @classmethod
    def poll_drop(cls, context: Context) -> bool:
        return context.area is not None and context.area.type == "VIEW_3D" and app_state.current() is not None


CLASSES = (S2MESH_OT_GenerateDropped, S2MESH_FH_picture)
