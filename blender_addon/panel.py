# SPDX-License-Identifier: GPL-3.0-or-later
"""The sidebar tab "S2 Mesh" in the 3D viewport. Panels draw what `view` says and decide nothing."""

import bpy
from bpy.types import Context, Menu, Panel, UILayout

from . import app_state, option_checks
from .client_errors import InstallFailed
from .placing import replace_target
from .presets import S2MESH_PT_Presets
from .translations import t
from .view import server_line
from .words import wrapped

_SWITCHED_QUALITY = ("dense_steps", "sparse_steps", "dense_guidance", "sparse_guidance", "iso_level", "max_tokens")


class SidebarPanel:
    """Where all panels of the extension are."""

    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "S2 Mesh"


def draw_text(layout: UILayout, context: Context, text: str, *, icon: str = "NONE", alert: bool = False) -> None:
    """A text of any length in lines that fit the sidebar."""
    scale = context.preferences.system.ui_scale or 1.0
    width = context.region.width if context.region else 300
    column = layout.column(align=True)
    column.alert = alert
    column.scale_y = 0.8
    for number, line in enumerate(wrapped(text, max(int(width / (scale * 7.2)) - 6, 20))):
        column.label(text=line, icon=icon if number == 0 else ("BLANK1" if icon != "NONE" else "NONE"), translate=False)


class S2MESH_PT_Main(SidebarPanel, Panel):
    bl_label = "S2 Mesh"

    def draw(self, context: Context) -> None:
        app = app_state.current()
        if app is None:
            return
        app.panel_was_drawn()
        layout = self.layout
        _draw_server(layout, context, app)
        _draw_picture(layout, context)
        _draw_generate(layout, context, app)


class S2MESH_PT_Settings(SidebarPanel, Panel):
    bl_label = "Settings"
    bl_parent_id = "S2MESH_PT_Main"
    bl_order = 2

    def draw_header_preset(self, _context: Context) -> None:
        S2MESH_PT_Presets.draw_panel_header(self.layout)

    def draw(self, context: Context) -> None:
        app, settings = app_state.current(), context.scene.s2mesh
        if app is None:
            return
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        options = option_checks.options_from(settings)
        preset = option_checks.chosen_preset(options, app.capabilities)
        column = layout.column()
        _menu_row(column, "Model", "S2MESH_MT_Models", preset.name if preset else settings.preset or t("Automatic"))
        _menu_row(column, "Resolution", "S2MESH_MT_Resolutions", str(settings.resolution or t("Full")))
        row = column.row(align=True)
        seed = row.row(align=True)
        seed.active = not settings.use_random_seed
        seed.prop(settings, "seed")
        row.operator("s2mesh.roll_seed", text="", icon="FILE_REFRESH")
        row.prop(settings, "use_random_seed", text="", icon="UNLOCKED" if settings.use_random_seed else "LOCKED")
        _switched_row(column, settings, "faces", app.capabilities)
        column.prop(settings, "background")
        column.prop(settings, "interior")
        column = layout.column(heading="Remove")  # the properties' whole names would be cut off
        column.prop(settings, "remove_interior", text="Interior")
        column.prop(settings, "remove_floaters", text="Loose Pieces")


class S2MESH_PT_Quality(SidebarPanel, Panel):
    bl_label = "Quality"
    bl_parent_id = "S2MESH_PT_Settings"
    bl_options = {"DEFAULT_CLOSED"}

    def draw(self, context: Context) -> None:
        app, settings = app_state.current(), context.scene.s2mesh
        if app is None:
            return
        self.layout.use_property_split = True
        self.layout.use_property_decorate = False
        column = self.layout.column()
        for name in _SWITCHED_QUALITY:
            _switched_row(column, settings, name, app.capabilities)


class S2MESH_PT_Placement(SidebarPanel, Panel):
    bl_label = "Placement"
    bl_parent_id = "S2MESH_PT_Main"
    bl_order = 3

    def draw(self, context: Context) -> None:
        settings = context.scene.s2mesh
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        column = layout.column()
        column.prop(settings, "size")
        column.prop(settings, "origin", expand=True)
        place = column.row()
        place.active = not settings.replace
        place.prop(settings, "place_at", expand=True)
        column.prop(settings, "replace")
        if settings.replace:
            target, reason = replace_target(context)
            draw_text(column, context, target.name if target else reason, icon="OUTLINER_OB_MESH" if target else "INFO")
        column.prop(settings, "smooth")


class S2MESH_PT_Server(SidebarPanel, Panel):
    bl_label = "Server"
    bl_parent_id = "S2MESH_PT_Main"
    bl_options = {"DEFAULT_CLOSED"}
    bl_order = 4

    def draw(self, context: Context) -> None:
        app = app_state.current()
        if app is None:
            return
        column = self.layout.column()
        if app.url:
            column.label(text=app.url, icon="URL", translate=False)
        row = column.row(align=True)
        row.operator("s2mesh.start_server", text="Start", icon="PLAY")
        row.operator("s2mesh.stop_server", text="Stop", icon="PAUSE")
        column.operator("s2mesh.unload", icon="MEMORY")
        row = column.row(align=True)
        row.operator("s2mesh.open_log", icon="TEXT")
        row.operator("s2mesh.doctor", icon="VIEWZOOM")
        row = column.row(align=True)
        row.operator("s2mesh.connect", icon="FILE_REFRESH")
        row.operator("s2mesh.open_page", icon="WINDOW")
        column.operator("s2mesh.install_server", icon="IMPORT")


class S2MESH_MT_Models(Menu):
    bl_label = "Model"

    def draw(self, _context: Context) -> None:
        app = app_state.current()
        capabilities = app.capabilities if app else None
        _set(self.layout, "string", "preset", "", t("Automatic"))
        for preset in capabilities.presets if capabilities else ():
            row = self.layout.row()
            row.enabled = preset.installed
            text = "{name}" if preset.installed else t("{name}, not installed")
            _set(row, "string", "preset", preset.name, text.format(name=preset.title or preset.name))
        if capabilities is None:
            self.layout.label(text="The server tells its models when it runs", icon="INFO")


class S2MESH_MT_Resolutions(Menu):
    bl_label = "Resolution"

    def draw(self, context: Context) -> None:
        app = app_state.current()
        options = option_checks.options_from(context.scene.s2mesh)
        preset = option_checks.chosen_preset(options, app.capabilities if app else None)
        _set(self.layout, "int", "resolution", 0, t("Full"))
        for stage in preset.resolutions if preset else ():
            memory = f", {stage.memory_gb:g} GB" if stage.memory_gb else ""
            _set(self.layout, "int", "resolution", stage.resolution, f"{stage.resolution}{memory}")


def _draw_server(layout: UILayout, context: Context, app: app_state.AppState) -> None:
    line = server_line(app)
    box = layout.box()
    row = box.row()
    row.alert = line.alert
    row.label(text=line.text, icon=line.icon, translate=False)
    if app.is_starting or app.owns_server:
        row.operator("s2mesh.stop_server", text="Stop", icon="PAUSE")
    elif not line.online:
        row.operator("s2mesh.start_server", text="Start", icon="PLAY")
    for sentence in line.details:
        draw_text(box, context, sentence, alert=line.alert)
    if isinstance(app.process_problem, InstallFailed):
        box.operator("s2mesh.install_server", icon="IMPORT")
    if app.installing is not None:
        draw_text(box, context, app.installing.last_line, icon="IMPORT")
        if not app.installing.done:
            box.operator("s2mesh.stop_installation", icon="CANCEL")


def _draw_picture(layout: UILayout, context: Context) -> None:
    settings = context.scene.s2mesh
    column = layout.column()
    column.template_ID_preview(settings, "picture", open="s2mesh.choose_file", rows=3, cols=6)
    row = column.row(align=True)
    row.operator("s2mesh.choose_file", text="File", icon="FILE_FOLDER")
    row.operator("s2mesh.use_clipboard", text="Clipboard", icon="PASTEDOWN")
    row = column.row(align=True)
    row.operator("s2mesh.use_render", text="Render", icon="RENDER_STILL")
    row.operator("s2mesh.use_viewport", text="Viewport", icon="VIEW3D")


def _draw_generate(layout: UILayout, context: Context, app: app_state.AppState) -> None:
    settings = context.scene.s2mesh
    for sentence in option_checks.warnings(option_checks.options_from(settings), app.capabilities):
        draw_text(layout, context, sentence, icon="ERROR")
    if app.notice:
        draw_text(layout, context, app.notice, icon="INFO")
    row = layout.row(align=True)
    row.scale_y = 1.5
    row.operator("s2mesh.generate", icon="MESH_MONKEY")
    side = row.row(align=True)
    side.ui_units_x = 3.5
    side.prop(settings, "count", text="")


def _set(layout: UILayout, kind: str, name: str, value: str | int, text: str) -> None:
    button = layout.operator(f"wm.context_set_{kind}", text=text, translate=False)
    button.data_path = f"scene.s2mesh.{name}"
    button.value = value


def _menu_row(column: UILayout, label: str, menu: str, text: str) -> None:
    split = column.split(factor=0.4)
    left = split.row()
    left.alignment = "RIGHT"
    left.label(text=label)
    split.menu(menu, text=text, translate=False)


def _switched_row(column: UILayout, settings: bpy.types.PropertyGroup, name: str, capabilities: object) -> None:
    """A value behind a switch; when it is off, what holds instead is told by its being grey."""
    row = column.row(heading=settings.bl_rna.properties[name].name)
    row.prop(settings, f"use_{name}", text="")
    value = row.row()
    used = getattr(settings, f"use_{name}")
    value.active = used
    value.prop(settings, name, text="")
    limits = option_checks.limits_text(name, capabilities) if used else ""
    if limits:
        hint = column.row()
        hint.active = False
        hint.alignment = "RIGHT"
        hint.label(text=limits, translate=False)


CLASSES = (
    S2MESH_MT_Models,
    S2MESH_MT_Resolutions,
    S2MESH_PT_Main,
    S2MESH_PT_Settings,
    S2MESH_PT_Quality,
    S2MESH_PT_Placement,
    S2MESH_PT_Server,
)
