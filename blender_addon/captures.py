# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures that have to be taken first: the clipboard, the last render, a view of the 3D viewport. Main thread only."""

from __future__ import annotations

import tempfile
from pathlib import Path

import bpy
import numpy as np

from .picture import Picture, PictureError, clean_title
from .picture_pixels import converted, encoded_pixels
from .png import encode_png

_SNAPSHOT_SIDE = 1536  # pixels of the longer side


def picture_from_clipboard() -> Picture:
    """The picture in the clipboard.

    Raises:
        PictureError: where the clipboard has none, or there is no clipboard.
    """
    nothing = PictureError("The clipboard holds no picture", "Copy a picture, or save it and choose the file.")
    if bpy.app.background or not bpy.ops.image.clipboard_paste.poll():
        raise nothing
    before = {image.session_uid for image in bpy.data.images}
    shown = [(space, space.image) for space in _image_editors()]
    try:
        bpy.ops.image.clipboard_paste()
    except RuntimeError:
        raise nothing from None
    new = [image for image in bpy.data.images if image.session_uid not in before]
    try:
        if not new or not new[0].size[0]:
            raise nothing
        return Picture(png=encoded_pixels(new[0]), title="clipboard")
    finally:
        for space, image in shown:  # pasting shows the new image in the editor it was called from
            if space.image != image:
                space.image = image
        for image in new:
            bpy.data.images.remove(image)


def _image_editors() -> list[bpy.types.SpaceImageEditor]:
    windows = bpy.context.window_manager.windows
    return [area.spaces.active for window in windows for area in window.screen.areas if area.type == "IMAGE_EDITOR"]


def picture_from_render(scene: bpy.types.Scene, *, render_now: bool = True) -> Picture:
    """A render of the scene's camera, with its view transform and, if the film is transparent, its transparency.

    Args:
        render_now: Blender stands still meanwhile. False: take the last render.

    Raises:
        PictureError: without a camera, where rendering fails, or nothing was rendered yet.
    """
    if render_now:
        if scene.camera is None:
            raise PictureError(f"The scene {scene.name} has no camera", "Add a camera that looks at the object.")
        try:
            bpy.ops.render.render(scene=scene.name)
        except RuntimeError as error:
            raise PictureError(f"The scene {scene.name} cannot be rendered: {error}", "Render it with F12.") from None
    result = next((image for image in bpy.data.images if image.type == "RENDER_RESULT"), None)
    with tempfile.TemporaryDirectory(prefix="s2mesh-") as folder:
        path = Path(folder, "render.png")
        if result is None or not _save_render(result, scene, path):
            raise PictureError("There is no render yet", "Render the camera's picture with F12 first.")
        image = bpy.data.images.load(str(path), check_existing=False)
        try:
            return Picture(png=encoded_pixels(image), title=clean_title(f"{scene.name} render"))
        finally:
            bpy.data.images.remove(image)


def _save_render(result: bpy.types.Image, scene: bpy.types.Scene, path: Path) -> bool:
    """As PNG, by the settings of a scene that is gone afterwards: the user's may ask for a movie or an EXR."""
    helper = bpy.data.scenes.new("S2 Mesh")
    try:
        helper.render.image_settings.file_format = "PNG"
        helper.render.image_settings.color_mode = "RGBA"
        helper.render.image_settings.color_depth = "8"
        helper.display_settings.display_device = scene.display_settings.display_device
        for name in ("view_transform", "look", "exposure", "gamma"):  # the look depends on the transform
            try:
                setattr(helper.view_settings, name, getattr(scene.view_settings, name))
            except TypeError:  # an enum that this display does not offer
                continue
        result.save_render(str(path), scene=helper)
    except RuntimeError:  # "does not have any image data"
        return False
    finally:
        bpy.data.scenes.remove(helper)
    return path.exists()


def picture_from_viewport(context: bpy.types.Context) -> Picture:
    """What the 3D viewport shows, without overlays and with a transparent background.

    The last render stays as it is: this draws into memory of its own.

    Raises:
        PictureError: in background mode, and where no 3D viewport is open.
    """
    if bpy.app.background:
        raise PictureError("There is no viewport in background mode", "Use a picture file or a render.")
    found = _viewport(context)
    if found is None:
        raise PictureError("No 3D viewport is open", "Open one, or choose another source.")
    pixels = _drawn(context, *found)
    if not pixels[..., 3].any():
        raise PictureError("The viewport shows no object", "Turn the view towards the object first.")
    return Picture(png=encode_png(pixels), title=clean_title(f"{context.scene.name} view"))


def _viewport(context: bpy.types.Context) -> tuple[bpy.types.SpaceView3D, bpy.types.Region] | None:
    """The viewport of the context, else the largest in its window."""
    areas = [context.area] if context.area is not None and context.area.type == "VIEW_3D" else []
    if not areas and context.window is not None:
        views = [area for area in context.window.screen.areas if area.type == "VIEW_3D"]
        areas = sorted(views, key=lambda area: -area.width * area.height)
    for area in areas:
        region = next((region for region in area.regions if region.type == "WINDOW"), None)
        if region is not None and region.width > 1 and region.height > 1:
            return area.spaces.active, region
    return None


def _drawn(context: bpy.types.Context, space: bpy.types.SpaceView3D, region: bpy.types.Region) -> np.ndarray:
    """[H, W, 4] uint8, top row first."""
    import gpu  # not there in background mode

    scale = _SNAPSHOT_SIDE / max(region.width, region.height)
    width, height = max(1, round(region.width * scale)), max(1, round(region.height * scale))
    overlays = space.overlay.show_overlays
    offscreen = gpu.types.GPUOffScreen(width, height)
    try:
        space.overlay.show_overlays = False
        offscreen.draw_view3d(
            context.scene,
            context.view_layer,
            space,
            region,
            space.region_3d.view_matrix,
            space.region_3d.window_matrix,
            do_color_management=True,
            draw_background=False,
        )
        with offscreen.bind():
            buffer = gpu.state.active_framebuffer_get().read_color(0, 0, width, height, 4, 0, "FLOAT")
        buffer.dimensions = width * height * 4
        pixels = np.array(buffer, np.float32).reshape(height, width, 4)
    except (RuntimeError, ValueError, SystemError) as error:
        raise PictureError(f"The viewport cannot be drawn: {error}", "Use a picture file or a render.") from None
    finally:
        space.overlay.show_overlays = overlays
        offscreen.free()
    return converted(pixels, linear=False, premultiplied=True, opaque=False)
