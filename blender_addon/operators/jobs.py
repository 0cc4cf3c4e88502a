# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be done with a job of the list: cancel, import, make again, write as Python, delete."""

import secrets

from bpy.props import BoolProperty, FloatProperty, StringProperty
from bpy.types import Context, Event, Operator

from .. import app_state, as_python, headless, job_actions, submission
from ..app_state import AppState
from ..client_errors import S2MeshError
from ..session import JobRecord
from ..translations import t

_WAIT = dict(
    name="Wait",
    description="Stay until it is done. For scripts; works in background mode too",
    options={"SKIP_SAVE"},
)
_TIMEOUT = dict(
    name="Time Limit",
    description="Seconds to wait at most; 0: without limit",
    min=0.0,
    options={"SKIP_SAVE"},
)


class JobOperator:
    """An operator on one job: `job_id`, or the newest when that is empty."""

    bl_options = {"REGISTER", "INTERNAL"}

    job_id: StringProperty(
        name="Job", description="The job's number on the server. Empty: the newest", options={"SKIP_SAVE"}
    )

    @classmethod
    def poll(cls, _context: Context) -> bool:
        app = app_state.current()
        if app is None or not len(app.session):
            cls.poll_message_set("There are no jobs")
            return False
        return True

    def execute(self, context: Context) -> set[str]:
        try:
            app = submission.running_app()
            record = app.session.find(self.job_id) if self.job_id else next(iter(app.newest_first()), None)
            if record is None:
                raise S2MeshError(t("There is no job {id}").format(id=self.job_id), t("Press Connect and look again"))
            message = self.act(context, app, record)
        except S2MeshError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        if message:
            self.report({"INFO"}, message)
        return {"FINISHED"}

    def act(self, context: Context, app: AppState, record: JobRecord) -> str:
        raise NotImplementedError


class S2MESH_OT_Cancel(JobOperator, Operator):
    """Cancel this job. One that waits ends at once, one that runs at its next step"""

    bl_idname = "s2mesh.cancel"
    bl_label = "Cancel"

    wait: BoolProperty(**_WAIT)

    def act(self, _context: Context, app: AppState, record: JobRecord) -> str:
        if record.finished:
            return t("{title} has ended already").format(title=record.title)
        job_actions.cancel(app, record)
        if self.wait:
            headless.wait_until(app, lambda: record.finished, what=record.title)
        return t("Cancelling {title}").format(title=record.title)


class S2MESH_OT_ImportResult(JobOperator, Operator):
    """Put the finished mesh into the scene, at the 3D cursor with the size that is set"""

    bl_idname = "s2mesh.import_result"
    bl_label = "Import Result"

    wait: BoolProperty(**_WAIT)
    timeout: FloatProperty(**_TIMEOUT)

    def act(self, context: Context, app: AppState, record: JobRecord) -> str:
        job_actions.import_again(app, context, record)
        if self.wait:
            headless.select(context, [headless.wait_for(app, record, self.timeout or None)])
        return ""


class S2MESH_OT_Regenerate(JobOperator, Operator):
    """Make it again from the same picture with the same options, beside the first"""

    bl_idname = "s2mesh.regenerate"
    bl_label = "Generate Again"

    new_seed: BoolProperty(
        name="Another Seed", description="Use another seed, which gives another shape", options={"SKIP_SAVE"}
    )
    wait: BoolProperty(**_WAIT)
    timeout: FloatProperty(**_TIMEOUT)

    def act(self, context: Context, app: AppState, record: JobRecord) -> str:
        seed = secrets.randbelow(2**31) if self.new_seed else job_actions.seed_of(record)
        again = job_actions.regenerate(app, context, record, seed)
        if self.wait:
            headless.select(context, [headless.wait_for(app, again, self.timeout or None)])
        return t("Sent {title}").format(title=record.title)


class S2MESH_OT_CopyAsPython(JobOperator, Operator):
    """Copy a script that makes this result again to the clipboard"""

    bl_idname = "s2mesh.copy_as_python"
    bl_label = "Copy as Python"

    def act(self, context: Context, app: AppState, record: JobRecord) -> str:
        context.window_manager.clipboard = as_python.script(app, record)
        return t("Copied to the clipboard")


class S2MESH_OT_DeleteJob(JobOperator, Operator):
    """Delete this job and its files from the server. Objects in the scene stay"""

    bl_idname = "s2mesh.delete_job"
    bl_label = "Delete Job"

    def invoke(self, context: Context, event: Event) -> set[str]:
        return context.window_manager.invoke_confirm(self, event, message=t("Delete this job?"))

    def act(self, _context: Context, app: AppState, record: JobRecord) -> str:
        if record.job is not None and not record.finished:
            raise S2MeshError(t("{title} is not finished").format(title=record.title), t("Cancel it first"))
        job_actions.delete(app, record)
        return ""


class S2MESH_OT_ClearFinished(Operator):
    """Delete all finished jobs and their files from the server. Objects in the scene stay"""

    bl_idname = "s2mesh.clear_finished"
    bl_label = "Clear Finished Jobs"
    bl_options = {"REGISTER", "INTERNAL"}

    @classmethod
    def poll(cls, _context: Context) -> bool:
        app = app_state.current()
        if app is None or not app.session.counts.finished:
            cls.poll_message_set("There are no finished jobs")
            return False
        return True

    def invoke(self, context: Context, event: Event) -> set[str]:
        return context.window_manager.invoke_confirm(self, event, message=t("Delete all finished jobs?"))

    def execute(self, _context: Context) -> set[str]:
        app = app_state.current()
        finished = [record for record in app.session if record.finished]
        for record in finished:
            job_actions.delete(app, record)
        self.report({"INFO"}, t("Deleted {count} jobs").format(count=len(finished)))
        return {"FINISHED"}


CLASSES = (
    S2MESH_OT_Cancel,
    S2MESH_OT_ImportResult,
    S2MESH_OT_Regenerate,
    S2MESH_OT_CopyAsPython,
    S2MESH_OT_DeleteJob,
    S2MESH_OT_ClearFinished,
)
