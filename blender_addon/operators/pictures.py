# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the scene's picture comes from: a file, the clipboard, a render, a look at the viewport."""

import tempfile
from pathlib import Path

import bpy
from bpy.props import StringProperty
from bpy.types import Context, Event, Image, Operator
from bpy_extras.io_utils import ImportHelper

from .. import pictures
from ..client_errors import S2MeshError
from ..pictures import Picture
from ..translations import t

FILE_GLOB = "*.png;*.jpg;*.jpeg;*.webp;*.bmp;*.tif;*.tiff;*.exr;*.hdr"


def image_from(picture: Picture, name: str) -> Image:
    """A packed image of this file with the picture's content."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.png"
        path.write_bytes(picture.png)
        image = bpy.data.images.load(str(path))
        image.pack()  # into the .blend: the file goes away
    image.name = name
    image.filepath = ""
    image.preview_ensure()
    return image


class S2MESH_OT_ChooseFile(Operator, ImportHelper):
    """Choose the picture file"""

    bl_idname = "s2mesh.choose_file"
    bl_label = "Choose Picture"
    bl_options = {"REGISTER", "UNDO"}

    filter_glob: StringProperty(default=FILE_GLOB, options={"HIDDEN"})

    def execute(self, context: Context) -> set[str]:
        image = self._loaded()
        if image is None:
            text = t("{file} cannot be opened as a picture. Choose another, or save it as PNG.")
            self.report({"ERROR"}, text.format(file=Path(self.filepath).name))
            return {"CANCELLED"}
        context.scene.s2mesh.picture = image
        return {"FINISHED"}

    def _loaded(self) -> Image | None:
        """The image of the file; Blender makes one of any file, and finds out only when it reads the pixels."""
        try:
            image = bpy.data.images.load(bpy.path.abspath(self.filepath), check_existing=True)
        except RuntimeError:
            return None
        if image.size[0] > 0:
            return image
        if not image.users:
            bpy.data.images.remove(image)
        return None


class _TakePicture:
    """An operator that makes an image and chooses it."""

    bl_options = {"REGISTER", "UNDO"}
    image_name = ""

    def take(self, context: Context) -> Picture:
        raise NotImplementedError

    def execute(self, context: Context) -> set[str]:
        try:
            picture = self.take(context)
        except S2MeshError as error:
            self.report({"ERROR"}, str(error))
            return {"CANCELLED"}
        context.scene.s2mesh.picture = image_from(picture, t(self.image_name))
        return {"FINISHED"}


class S2MESH_OT_UseClipboard(_TakePicture, Operator):
    """Take the picture that was copied in another program"""

    bl_idname = "s2mesh.use_clipboard"
    bl_label = "Use Clipboard"
    image_name = "Clipboard"

    def take(self, context: Context) -> Picture:
        return pictures.picture_from_clipboard()


class S2MESH_OT_UseRender(_TakePicture, Operator):
    """Render the scene's camera at its set resolution and take that picture. Blender waits for the render"""

    bl_idname = "s2mesh.use_render"
    bl_label = "Use Render"
    image_name = "Render"

    @classmethod
    def poll(cls, context: Context) -> bool:
        if context.scene is None or context.scene.camera is None:
            cls.poll_message_set("The scene has no camera")
            return False
        return True

    def invoke(self, context: Context, event: Event) -> set[str]:
        return context.window_manager.invoke_confirm(self, event, message=t("Render now? Blender waits for it."))

    def take(self, context: Context) -> Picture:
        return pictures.picture_from_render(context.scene)


class S2MESH_OT_UseViewport(_TakePicture, Operator):
    """Take a picture of the 3D viewport as it is now, without its overlays"""

    bl_idname = "s2mesh.use_viewport"
    bl_label = "Use Viewport"
    image_name = "Viewport"

    @classmethod
    def poll(cls, context: Context) -> bool:
        if bpy.app.background:
            cls.poll_message_set("Blender runs without a window")
            return False
        if context.area is None or context.area.type != "VIEW_3D":
            cls.poll_message_set("Only in a 3D viewport")
            return False
        return True

    def take(self, context: Context) -> Picture:
        return pictures.picture_from_viewport(context)


CLASSES = (S2MESH_OT_ChooseFile, S2MESH_OT_UseClipboard, S2MESH_OT_UseRender, S2MESH_OT_UseViewport)
