# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for every file: how the server is found and started, where files are kept, how results look."""

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, StringProperty
from bpy.types import AddonPreferences, Context, UILayout

AUTO_START = (
    ("ASK", "Ask", "Ask before the server is started"),
    ("ALWAYS", "Always", "Start the server without asking"),
    ("NEVER", "Never", "Only the Start button starts the server"),
)


def _connection_changed(_self: AddonPreferences, _context: Context) -> None:
    from . import app_state

    app_state.connection_changed()


class S2MeshPreferences(AddonPreferences):
    """Preferences of the extension."""

    bl_idname = __package__

    address: StringProperty(
        name="Address",
        description="Address of the server, as http://127.0.0.1:8493. Empty: the running server of this machine",
        update=_connection_changed,
    )
    token: StringProperty(
        name="Token",
        description="Token of the server at that address; `s2mesh token` prints it. Empty: this machine's own",
        subtype="PASSWORD",
        update=_connection_changed,
    )
    server_folder: StringProperty(
        name="Server Folder",
        description="Folder of the S2 Mesh server: a copy of its repository. Empty: where Install Server puts it",
        subtype="DIR_PATH",
        update=_connection_changed,
    )
    server_python: StringProperty(
        name="Server Python",
        description="Python that has the server installed. Empty: the one in the server folder",
        subtype="FILE_PATH",
        update=_connection_changed,
    )
    archive: StringProperty(
        name="Server Archive",
        description="Zip of an S2 Mesh release, a file or an address, that Install Server unpacks where the server "
        "folder has none",
        subtype="FILE_PATH",
    )
    data_folder: StringProperty(
        name="Data Folder",
        description="Where the server keeps jobs and its token. Empty: the server's usual folder",
        subtype="DIR_PATH",
        update=_connection_changed,
    )
    auto_start: EnumProperty(
        name="Start on Generate",
        description="Whether Generate starts the server of this machine when it is not running",
        items=AUTO_START,
        default="ASK",
    )
    idle_unload: IntProperty(
        name="Free Memory After",
        description="Minutes without a job after which a server that Blender started frees its memory; 0: never",
        min=0,
        max=24 * 60,
        default=10,
    )
    cache_folder: StringProperty(
        name="Cache Folder",
        description="Where results and thumbnails are kept. Empty: the extension's own folder",
        subtype="DIR_PATH",
        update=_connection_changed,
    )
    cache_size: IntProperty(
        name="Cache Size",
        description="Megabytes of results to keep; the oldest go first. They can be fetched from the server again",
        min=50,
        max=1_000_000,
        default=2000,
        update=_connection_changed,
    )
    size: FloatProperty(
        name="Default Size",
        description="Length of the longest side of results, in scenes that have not set their own",
        min=0.0001,
        soft_max=100.0,
        default=1.0,
        unit="LENGTH",
        precision=3,
    )
    smooth: BoolProperty(
        name="Shade Smooth",
        description="Shade results smooth, in scenes that have not set their own",
        default=True,
    )
    add_clay: BoolProperty(
        name="Add Clay Material",
        description="Give new results a plain clay material instead of none",
    )

    mark_as_asset: BoolProperty(
        name="Mark as Asset",
        description="Mark new results as assets, so that the asset browser shows them",
    )

    def draw(self, _context: Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        self._draw_server(layout.column(heading="Server"))
        layout.separator()
        column = layout.column(heading="Results")
        column.prop(self, "size")
        column.prop(self, "smooth")
        column.prop(self, "add_clay")
        column.prop(self, "mark_as_asset")
        layout.separator()
        column = layout.column(heading="Files")
        column.prop(self, "cache_folder")
        column.prop(self, "cache_size")

    def _draw_server(self, column: UILayout) -> None:
        column.prop(self, "address", placeholder="Found by itself")
        column.prop(self, "token", placeholder="Found by itself")
        column.prop(self, "server_folder")
        column.prop(self, "server_python")
        column.prop(self, "archive")
        column.prop(self, "data_folder")
        column.prop(self, "auto_start")
        column.prop(self, "idle_unload")
        row = column.row(align=True)
        row.operator("s2mesh.install_server", icon="IMPORT")
        row.operator("s2mesh.doctor", icon="TEXT")


def preferences(context: Context | None = None) -> S2MeshPreferences:
    """The extension's preferences; their defaults where it was enabled for this session only."""
    addon = (context or bpy.context).preferences.addons.get(__package__)
    return addon.preferences if addon is not None else _Defaults()


class _Defaults:
    """Reads as the preferences before anything was set."""

    def __getattr__(self, name: str) -> object:
        return S2MeshPreferences.bl_rna.properties[name].default


CLASSES = (S2MeshPreferences,)
