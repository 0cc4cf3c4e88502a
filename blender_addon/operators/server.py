# SPDX-License-Identifier: GPL-3.0-or-later
"""The server's buttons: connect, start, stop, free memory, log, page, install."""

import bpy
from bpy.props import BoolProperty, StringProperty
from bpy.types import Context, Event, Operator

from .. import app_state, headless, server_control, submission
from ..client_errors import OnlineAccessNeeded, S2MeshError
from ..discovery import is_loopback
from ..translations import t
from ..view import server_line
from ..words import wrapped

_WAIT = dict(
    name="Wait",
    description="Stay until it is done. For scripts; works in background mode too",
    options={"SKIP_SAVE"},
)


class ServerOperator:
    """An operator whose mistakes are told with their remedy."""

    bl_options = {"REGISTER", "INTERNAL"}

    @classmethod
    def poll(cls, context: Context) -> bool:
        app = app_state.current()
        if app is None:
            return False
        if reason := cls.reason_against(app):
            cls.poll_message_set(reason)
            return False
        return True

    @classmethod
    def reason_against(cls, app: app_state.AppState) -> str:
        """Why it cannot be done now; empty when it can."""
        return ""

    def execute(self, context: Context) -> set[str]:
        try:
            message = self.act(context, submission.running_app())
        except S2MeshError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        if message:
            self.report({"INFO"}, message)
        return {"FINISHED"}

    def act(self, context: Context, app: app_state.AppState) -> str:
        raise NotImplementedError


class S2MESH_OT_Connect(ServerOperator, Operator):
    """Look for the server again and read its list of jobs"""

    bl_idname = "s2mesh.connect"
    bl_label = "Connect"

    url: StringProperty(
        name="Address", description="For this session only. Empty: as in the preferences", options={"SKIP_SAVE"}
    )
    token: StringProperty(
        name="Token",
        description="For this session only. Empty: as in the preferences",
        subtype="PASSWORD",
        options={"SKIP_SAVE"},
    )
    wait: BoolProperty(**_WAIT)

    def act(self, _context: Context, app: app_state.AppState) -> str:
        if self.properties.is_property_set("url") or self.properties.is_property_set("token"):
            app.use_server(self.url, self.token)
        else:
            app.look_again()
        if not self.wait:
            return ""
        headless.wait_for_server(app)
        headless.wait_until(app, lambda: app.list_came, timeout=30.0, what=t("The list of jobs"))
        return server_line(app).text


class S2MESH_OT_StartServer(ServerOperator, Operator):
    """Start the server of this machine, or use the one that runs"""

    bl_idname = "s2mesh.start_server"
    bl_label = "Start Server"

    wait: BoolProperty(**_WAIT)

    @classmethod
    def reason_against(cls, app: app_state.AppState) -> str:
        if not app.is_local:
            return t("The address in the preferences is another machine's")
        if app.owns_server:
            return t("It is starting") if app.is_starting else t("It runs already")
        return t("It runs already") if app.is_online else ""

    def act(self, _context: Context, app: app_state.AppState) -> str:
        if self.wait:
            headless.wait_for_server(app, start=True)
            return server_line(app).text
        server_control.start(app)
        return t("The server is starting")


class S2MESH_OT_StopServer(ServerOperator, Operator):
    """Stop the server that this Blender started. A running job goes on at its next start"""

    bl_idname = "s2mesh.stop_server"
    bl_label = "Stop Server"

    @classmethod
    def reason_against(cls, app: app_state.AppState) -> str:
        if app.owns_server:
            return ""
        return t("Another program started it; stop it there") if app.is_online else t("It does not run")

    def act(self, _context: Context, app: app_state.AppState) -> str:
        server_control.stop(app)
        return t("The server is stopping")


class S2MESH_OT_Unload(ServerOperator, Operator):
    """Free the GPU's memory for rendering. The next job loads the model again"""

    bl_idname = "s2mesh.unload"
    bl_label = "Free GPU Memory"

    after_job: BoolProperty(
        name="After the Running Job", description="Wait for the running job instead of refusing", default=True
    )

    @classmethod
    def reason_against(cls, app: app_state.AppState) -> str:
        if not app.is_online:
            return t("The server is not running")
        return t("It holds no memory now") if app.ready.worker_state == "stopped" else ""

    def act(self, _context: Context, app: app_state.AppState) -> str:
        app.poller.unload(wait=self.after_job)
        return ""


class S2MESH_OT_OpenLog(ServerOperator, Operator):
    """Show the end of the server's log as a text in this file"""

    bl_idname = "s2mesh.open_log"
    bl_label = "Open Log"

    @classmethod
    def reason_against(cls, app: app_state.AppState) -> str:
        return "" if server_control.log_path().exists() else t("No server was started from Blender yet")

    def act(self, context: Context, _app: app_state.AppState) -> str:
        lines = server_control.log_end()
        show_text(context, "S2 Mesh Log", lines)
        return t("The log is in the text {name}").format(name="S2 Mesh Log")


class S2MESH_OT_OpenPage(ServerOperator, Operator):
    """Open the server's page in the browser"""

    bl_idname = "s2mesh.open_page"
    bl_label = "Open Page"

    @classmethod
    def reason_against(cls, app: app_state.AppState) -> str:
        if not app.is_online:
            return t("The server is not running")
        return "" if is_loopback(app.url) else t("Only for a server of this machine")

    def act(self, _context: Context, app: app_state.AppState) -> str:
        # The token is behind the #, which browsers send to nobody; the page takes it out of the address.
        bpy.ops.wm.url_open(url=f"{app.url}/#token={server_control.token(app)}")
        return ""


class S2MESH_OT_InstallServer(ServerOperator, Operator):
    """Install the server in a folder of its own, with its own Python packages. Tells the sizes and asks first"""

    bl_idname = "s2mesh.install_server"
    bl_label = "Install Server"

    confirmed: BoolProperty(
        name="Install",
        description="That the sizes are known; a script sets it, the dialog does it for you",
        options={"SKIP_SAVE", "HIDDEN"},
    )
    wait: BoolProperty(**_WAIT)

    @classmethod
    def reason_against(cls, app: app_state.AppState) -> str:
        if app.installing is not None and not app.installing.done:
            return t("It is being installed")
        return ""

    def invoke(self, context: Context, event: Event) -> set[str]:
        self.confirmed = True
        return context.window_manager.invoke_props_dialog(self, width=460, confirm_text=t("Install"))

    def draw(self, _context: Context) -> None:
        column = self.layout.column(align=True)
        for paragraph in server_control.installation().plan().words():
            for line in wrapped(paragraph, 70):
                column.label(text=line, translate=False)
        if not bpy.app.online_access:
            column.label(text="Online Access is off; switch it on in Preferences > System first", icon="ERROR")

    def act(self, _context: Context, app: app_state.AppState) -> str:
        if not self.confirmed:
            raise S2MeshError(
                " ".join(server_control.installation().plan().words()), t("Call it with confirmed=True to install")
            )
        if not bpy.app.online_access:
            raise OnlineAccessNeeded(t("The server's packages are downloaded"))
        server_control.install(app)
        if self.wait:
            headless.wait_until(app, lambda: app.installing.done, what=t("The installation"))
            if app.installing.error is not None:
                raise app.installing.error
        return t("The server is being installed; the panel shows how far")


class S2MESH_OT_StopInstallation(ServerOperator, Operator):
    """Stop the installation. Pressing Install Server again goes on from there"""

    bl_idname = "s2mesh.stop_installation"
    bl_label = "Stop Installation"

    @classmethod
    def reason_against(cls, app: app_state.AppState) -> str:
        running = app.installing is not None and not app.installing.done
        return "" if running else t("Nothing is being installed")

    def act(self, _context: Context, app: app_state.AppState) -> str:
        app.installing.stop.set()
        return ""


def show_text(context: Context, name: str, content: str) -> None:
    """A text block of this file with that content; an open text editor shows it."""
    block = bpy.data.texts.get(name) or bpy.data.texts.new(name)
    block.from_string(content)
    for window in context.window_manager.windows:
        for area in window.screen.areas:
            if area.type == "TEXT_EDITOR":
                area.spaces.active.text = block
                return


CLASSES = (
    S2MESH_OT_Connect,
    S2MESH_OT_StartServer,
    S2MESH_OT_StopServer,
    S2MESH_OT_Unload,
    S2MESH_OT_OpenLog,
    S2MESH_OT_OpenPage,
    S2MESH_OT_InstallServer,
    S2MESH_OT_StopInstallation,
)
