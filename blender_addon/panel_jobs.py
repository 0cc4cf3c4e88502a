# SPDX-License-Identifier: GPL-3.0-or-later
"""The list of jobs in the sidebar: thumbnail, stage, bar, and what can be done with each."""

from bpy.types import Context, Panel, UILayout

from . import app_state, thumbnails
from .panel import SidebarPanel, draw_text
from .session import JobRecord
from .translations import t
from .view import JobRow, job_row, server_line
from .words import byte_size, duration, option_words

_MORE = 10  # how many further jobs a click on "Show More" shows


class S2MESH_PT_Jobs(SidebarPanel, Panel):
    bl_label = "Jobs"
    bl_parent_id = "S2MESH_PT_Main"
    bl_order = 1

    def draw_header_preset(self, _context: Context) -> None:
        row = self.layout.row()
        row.emboss = "NONE"
        row.operator("s2mesh.clear_finished", text="", icon="TRASH")

    def draw(self, context: Context) -> None:
        app, shown = app_state.current(), context.window_manager.s2mesh
        if app is None:
            return
        layout = self.layout
        records = app.newest_first()
        if not records:
            layout.label(text="No jobs yet", icon="INFO")
            return
        online = server_line(app).online
        for record in records[: shown.shown_jobs]:
            _draw_job(layout, context, record, online=online, is_open=shown.open_job == record.key)
        rest = len(records) - shown.shown_jobs
        if rest > 0:
            text = t("Show {count} More").format(count=min(rest, _MORE))
            button = layout.operator("wm.context_set_int", text=text, icon="DOWNARROW_HLT", translate=False)
            button.data_path = "window_manager.s2mesh.shown_jobs"
            button.value = shown.shown_jobs + _MORE


def _draw_job(layout: UILayout, context: Context, record: JobRecord, *, online: bool, is_open: bool) -> None:
    row = job_row(record, online=online)
    box = layout.box()
    whole = box.row()
    if icon := thumbnails.icon_of(record.key):
        whole.template_icon(icon_value=icon, scale=2.2)
    column = whole.column(align=True)
    head = column.row(align=True)
    title = head.row()
    title.alert = bool(row.problem)
    title.label(text=row.title, icon=row.icon, translate=False)
    _draw_buttons(head, record, row, is_open=is_open)
    line = column.row()
    line.active = row.active
    line.label(text=row.text, translate=False)
    if row.fraction is not None:
        box.progress(factor=row.fraction, text=row.bar, translate=False)
    for sentence in row.problem:
        draw_text(box, context, sentence, alert=True)
    if is_open:
        _draw_details(box, context, record, row)


def _draw_buttons(row: UILayout, record: JobRecord, shown: JobRow, *, is_open: bool) -> None:
    if shown.active:
        row.operator("s2mesh.cancel", text="", icon="X").job_id = record.key
    elif record.job is not None and record.job.state == "succeeded":
        row.operator("s2mesh.import_result", text="", icon="IMPORT").job_id = record.key
    toggle = row.operator("wm.context_set_string", text="", icon="DOWNARROW_HLT" if is_open else "RIGHTARROW")
    toggle.data_path = "window_manager.s2mesh.open_job"
    toggle.value = "" if is_open else record.key


def _draw_details(box: UILayout, context: Context, record: JobRecord, shown: JobRow) -> None:
    column = box.column(align=True)
    again = column.operator("s2mesh.regenerate", text="Same Seed Again", icon="FILE_REFRESH")
    again.job_id, again.new_seed = record.key, False
    other = column.operator("s2mesh.regenerate", text="Another Seed", icon="MOD_NOISE")
    other.job_id, other.new_seed = record.key, True
    column.operator("s2mesh.copy_as_python", icon="COPYDOWN").job_id = record.key
    delete = column.row(align=True)
    delete.enabled = not shown.active  # it is cancelled first
    delete.operator("s2mesh.delete_job", icon="TRASH").job_id = record.key
    if record.job is None:
        return
    for name, value in record.job.options.items():
        if not _is_usual(name, value):
            _pair(box, option_words(name), str(value))
    result = record.job.result or {}
    if isinstance(result.get("seconds"), int | float):
        _pair(box, t("Time"), duration(result["seconds"]))
    mesh = record.job.artifact("mesh.glb")
    if mesh is not None:
        _pair(box, t("File Size"), byte_size(mesh.bytes))
    for note in record.job.notes:
        draw_text(box, context, note, icon="INFO")


def _is_usual(name: str, value: object) -> bool:
    """Whether an option says no more than that it was left alone."""
    app = app_state.current()
    option = app.capabilities.option(name) if app and app.capabilities else None
    usual = option is not None and name not in ("preset", "seed") and option.default == value
    return value is None or usual or name in ("formats", "turntable")


def _pair(box: UILayout, name: str, value: str) -> None:
    split = box.split(factor=0.45)
    split.scale_y = 0.7
    split.label(text=name, translate=False)
    split.label(text=value, translate=False)


CLASSES = (S2MESH_PT_Jobs,)
