# SPDX-License-Identifier: GPL-3.0-or-later
"""Pictures that have to be taken first: the clipboard, the last render, a view of the 3D viewport. Main thread only."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
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
        render_now: Blender stands still meanwhile. False: take the last render, which background mode does not keep.

    Raises:
        PictureError: without a camera, where rendering fails, or nothing was rendered yet.
    """
    with tempfile.TemporaryDirectory(prefix="s2mesh-") as folder:
        path = Path(folder, "render.png")
        if render_now:
            _render(scene, path)
        else:
            _save_last_render(scene, path)
        image = bpy.data.images.load(str(path), check_existing=False)
        try:
            return Picture(png=encoded_pixels(image), title=clean_title(f"{scene.name} render"))
        finally:
            bpy.data.images.remove(image)


def _render(scene: bpy.types.Scene, path: Path) -> None:
    """To a file: in background mode the image "Render Result" is empty after a render."""
    if scene.camera is None:
        raise PictureError(f"The scene {scene.name} has no camera", "Add a camera that looks at the object.")
    try:
        with _png_output(scene):
            scene.render.filepath = str(path)
            bpy.ops.render.render(scene=scene.name, write_still=True)
    except RuntimeError as error:
        raise PictureError(f"The scene {scene.name} cannot be rendered: {error}", "Try it with F12.") from None
    if not path.exists():  # stopped with Esc, or several views
        raise PictureError(f"The render of {scene.name} gave no picture", "Try it with F12.")


def _save_last_render(scene: bpy.types.Scene, path: Path) -> None:
    result = next((image for image in bpy.data.images if image.type == "RENDER_RESULT"), None)
    try:
        if result is not None:
            with _png_output(scene):
                result.save_render(str(path), scene=scene)
    except RuntimeError:  # "does not have any image data"
        pass
    if not path.exists():
        raise PictureError("There is no render yet", "Render the camera's picture with F12 first.")


@contextlib.contextmanager
def _png_output(scene: bpy.types.Scene) -> Iterator[None]:
    """The scene's output as PNG for a moment; all of it is as before afterwards."""
    render, output = scene.render, scene.render.image_settings
    filepath, kept = render.filepath, {}
    # In this order, since each decides what the next may be; the first is there since 5.0.
    wanted = {"media_type": "IMAGE", "file_format": "PNG", "color_mode": "RGBA", "color_depth": "8"}
    try:
        for name in wanted:
            if hasattr(output, name):
                kept[name] = getattr(output, name)
        for name in kept:
            setattr(output, name, wanted[name])
        yield
    finally:
        render.filepath = filepath
        for name, value in kept.items():
            setattr(output, name, value)


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
