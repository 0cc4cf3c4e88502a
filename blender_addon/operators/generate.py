# SPDX-License-Identifier: GPL-3.0-or-later
"""Generate: send the picture, and with `wait` stay until the mesh stands in the scene."""

from typing import Any

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, FloatVectorProperty, IntProperty, StringProperty
from bpy.types import Context, Event, Image, Operator

from .. import app_state, headless, server_control, submission
from .. import properties as shared
from ..client_errors import S2MeshError
from ..option_checks import NAMES, options_from
from ..preferences import preferences
from ..translations import t
from ..view import server_line

_PLACES = ("size", "origin", "place_at", "location", "smooth")
_SHIFT_COUNT = 4  # results of a Shift-click
_UNSET_BELOW = {"resolution": 8}  # a smaller number means: not set


class S2MESH_OT_Generate(Operator):
    """Make a mesh of the object in the picture. Shift-click for four results, each with another seed"""

    bl_idname = "s2mesh.generate"
    bl_label = "Generate"
    bl_options = {"REGISTER"}

    filepath: StringProperty(
        name="File",
        description="Picture file. Empty: the image, or the scene's picture",
        subtype="FILE_PATH",
        options={"SKIP_SAVE"},
    )
    image: StringProperty(
        name="Image", description="Name of a Blender image. Empty: the scene's picture", options={"SKIP_SAVE"}
    )
    wait: BoolProperty(
        name="Wait",
        description="Stay until the mesh is in the scene. For scripts; works in background mode too",
        options={"SKIP_SAVE"},
    )
    timeout: FloatProperty(
        name="Time Limit",
        description="Seconds to wait at most; 0: without limit",
        min=0.0,
        options={"SKIP_SAVE"},
    )
    # What a call does not give is taken from the scene's settings.
    preset: StringProperty(**shared.PRESET, options={"SKIP_SAVE"})
    resolution: IntProperty(**shared.RESOLUTION, options={"SKIP_SAVE"})
    seed: IntProperty(**shared.SEED, options={"SKIP_SAVE"})
    count: IntProperty(**shared.COUNT, options={"SKIP_SAVE"})
    faces: IntProperty(**shared.FACES, options={"SKIP_SAVE"})
    remove_interior: BoolProperty(**shared.REMOVE_INTERIOR, options={"SKIP_SAVE"})
    remove_floaters: BoolProperty(**shared.REMOVE_FLOATERS, options={"SKIP_SAVE"})
    background: EnumProperty(**shared.BACKGROUND, options={"SKIP_SAVE"})
    interior: EnumProperty(**shared.INTERIOR, options={"SKIP_SAVE"})
    dense_steps: IntProperty(**shared.DENSE_STEPS, options={"SKIP_SAVE"})
    sparse_steps: IntProperty(**shared.SPARSE_STEPS, options={"SKIP_SAVE"})
    dense_guidance: FloatProperty(**shared.DENSE_GUIDANCE, options={"SKIP_SAVE"})
    sparse_guidance: FloatProperty(**shared.SPARSE_GUIDANCE, options={"SKIP_SAVE"})
    iso_level: FloatProperty(**shared.ISO_LEVEL, options={"SKIP_SAVE"})
    max_tokens: IntProperty(**shared.MAX_TOKENS, options={"SKIP_SAVE"})
    size: FloatProperty(**shared.SIZE, options={"SKIP_SAVE"})
    origin: EnumProperty(**shared.ORIGIN, options={"SKIP_SAVE"})
    place_at: EnumProperty(**shared.PLACE_AT, options={"SKIP_SAVE"})
    location: FloatVectorProperty(
        name="Location",
        description="Where the first result is put, instead of Place At",
        subtype="TRANSLATION",
        options={"SKIP_SAVE"},
    )
    replace: BoolProperty(**shared.REPLACE, options={"SKIP_SAVE"})
    smooth: BoolProperty(**shared.SMOOTH, options={"SKIP_SAVE"})

    start_server: BoolProperty(
        name="Start the Server",
        description="Start this machine's server when it is not running",
        options={"SKIP_SAVE"},
    )
    always: BoolProperty(
        name="Do Not Ask Again",
        description="From now on Generate starts the server without asking",
        options={"SKIP_SAVE"},
    )

    @classmethod
    def poll(cls, context: Context) -> bool:
        if app_state.current() is None or context.scene is None:
            cls.poll_message_set("There is no scene")
            return False
        # A script may name its own picture; only the button in the sidebar needs the scene's.
        in_sidebar = context.region is not None and context.region.type == "UI"
        if in_sidebar and context.scene.s2mesh.picture is None:
            cls.poll_message_set("Choose a picture first")
            return False
        if in_sidebar and server_line(app_state.current()).alert:
            cls.poll_message_set("The server cannot take jobs now; its line says why")
            return False
        return True

    def invoke(self, context: Context, event: Event) -> set[str]:
        if event.shift and not self.properties.is_property_set("count"):
            self.count = max(context.scene.s2mesh.count, _SHIFT_COUNT)
        app = app_state.current()
        if server_control.could_start(app) and not self.properties.is_property_set("start_server"):
            own = preferences(context)
            self.start_server = own.auto_start == "ALWAYS"
            if own.auto_start == "ASK":
                self.start_server = True
                return context.window_manager.invoke_props_dialog(
                    self, title=t("The server is not running"), width=360, confirm_text=t("Generate")
                )
        return self.execute(context)

    def draw(self, _context: Context) -> None:
        self.layout.label(text="The picture is sent as soon as a server runs")
        self.layout.prop(self, "start_server")
        self.layout.prop(self, "always")

    def execute(self, context: Context) -> set[str]:
        try:
            app = submission.running_app()
            if self.wait:
                headless.wait_for_server(app, start=self._may_start(context))
            elif self.start_server and server_control.could_start(app):
                if self.always:
                    preferences(context).auto_start = "ALWAYS"
                server_control.start(app)
            picture, source = submission.picture_of(self._source(context))
            records = submission.submit(context, picture, source, self._options(context), **self._places(context))
            if not self.wait:
                text = t("Sent {title}") if len(records) == 1 else t("Sent {title}, {count} results")
                self.report({"INFO"}, text.format(title=picture.title, count=len(records)))
                return {"FINISHED"}
            objects = [headless.wait_for(app, record, self.timeout or None) for record in records]
            headless.select(context, objects)
        except S2MeshError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        self.report({"INFO"}, t("Made {name}").format(name=", ".join(found.name for found in objects)))
        return {"FINISHED"}

    def _may_start(self, context: Context) -> bool:
        if self.properties.is_property_set("start_server"):
            return self.start_server
        return preferences(context).auto_start == "ALWAYS"

    def _source(self, context: Context) -> str | Image:
        if self.filepath:
            return self.filepath
        if self.image:
            image = bpy.data.images.get(self.image)
            if image is None:
                raise S2MeshError(
                    t("There is no image {name} in this file").format(name=self.image), t("Name one that there is")
                )
            return image
        if context.scene.s2mesh.picture is None:
            raise S2MeshError(t("No picture is chosen"), t("Choose one in the panel, or give filepath or image"))
        return context.scene.s2mesh.picture

    def _options(self, context: Context) -> dict[str, Any]:
        options = options_from(context.scene.s2mesh)
        for name in NAMES:
            if not self.properties.is_property_set(name):
                continue
            value = getattr(self, name)
            if value == "" or (name in _UNSET_BELOW and value < _UNSET_BELOW[name]):
                options.pop(name, None)
            else:
                options[name] = round(value, 5) if isinstance(value, float) else value
        return options

    def _places(self, context: Context) -> dict[str, Any]:
        settings, given = context.scene.s2mesh, self.properties.is_property_set
        return {
            "count": self.count if given("count") else settings.count,
            "replace_selected": self.replace if given("replace") else settings.replace,
            **{name: getattr(self, name) for name in _PLACES if given(name)},
        }


class S2MESH_OT_RollSeed(Operator):
    """Draw another seed and keep it"""

    bl_idname = "s2mesh.roll_seed"
    bl_label = "Draw a Seed"
    bl_options = {"REGISTER", "UNDO", "INTERNAL"}

    def execute(self, context: Context) -> set[str]:
        import secrets

        context.scene.s2mesh.seed = secrets.randbelow(2**31)
        context.scene.s2mesh.use_random_seed = False
        return {"FINISHED"}


CLASSES = (S2MESH_OT_Generate, S2MESH_OT_RollSeed)
