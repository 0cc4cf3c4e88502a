"""Every picture that an artist may have becomes one that the server reads, or a sentence that says why not."""

from __future__ import annotations

import json
import struct
import subprocess
import zlib
from pathlib import Path
from typing import Any

import bpy
import harness
import numpy as np

SERVER = "tiny"  # its Python decodes pictures as the server does

MUG = harness.PICTURES / "mug.png"
# Top left, top right, bottom left, bottom right; sRGB with straight alpha.
FOUR = np.array([[(255, 0, 0, 255), (0, 128, 64, 255)], [(10, 20, 250, 128), (0, 0, 0, 0)]], np.uint8)


def decoded(content: bytes) -> np.ndarray:  # [H, W, 4] uint8, top row first
    """As the server decodes it: with its own code, in its own Python."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); from core.imaging.load import load_image; "
        "pixels = load_image(sys.stdin.buffer.read()).pixels; "
        "sys.stdout.buffer.write(repr(pixels.shape).encode() + b'\\n' + pixels.tobytes())"
    )
    command = [harness.server.command[0], "-c", script, str(harness.ROOT)]
    done = subprocess.run(command, input=content, capture_output=True, check=True)
    shape, _, values = done.stdout.partition(b"\n")
    return np.frombuffer(values, np.uint8).reshape(json.loads(shape.replace(b"(", b"[").replace(b")", b"]")))


def png(pixels: np.ndarray, depth: int = 8) -> bytes:
    """Written by hand, so that it does not depend on what is tested."""
    values = pixels if depth == 8 else (pixels.astype(">u2") * 257)
    rows = b"".join(b"\0" + row.tobytes() for row in values)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">2I5B", pixels.shape[1], pixels.shape[0], depth, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def file(name: str, content: bytes) -> Path:
    path = harness.work / name
    path.write_bytes(content)
    return path


def opened(path: Path) -> bpy.types.Image:
    return bpy.data.images.load(str(path), check_existing=False)


def generated(pixels: np.ndarray, **options: Any) -> bpy.types.Image:
    """A new image of these floats [H, W, 4], top row first."""
    image = bpy.data.images.new("Made Here.png.001", pixels.shape[1], pixels.shape[0], alpha=True, **options)
    image.pixels.foreach_set(np.ascontiguousarray(pixels[::-1], np.float32).ravel())
    return image


def taken(image: bpy.types.Image) -> Any:
    """The picture of an image; the image, and the list of images, are as before."""
    before = (facts(image), [item.name for item in bpy.data.images])
    picture = harness.module("pictures").picture_from_image(image)
    assert (facts(image), [item.name for item in bpy.data.images]) == before
    return picture


def facts(image: bpy.types.Image) -> tuple[Any, ...]:
    names = ("name", "source", "filepath_raw", "file_format", "is_dirty", "is_float", "alpha_mode", "users")
    return (*(getattr(image, name) for name in names), tuple(image.size), image.packed_file is not None)


def refused(words: str, work: Any, *arguments: Any) -> None:
    try:
        work(*arguments)
    except harness.module("pictures").PictureError as error:
        assert words in error.message and error.remedy, str(error)
    else:
        raise AssertionError(f"taken: {words}")


def test_an_unchanged_file_is_sent_byte_by_byte():
    for path in (MUG, file("sixteen.png", png(FOUR, depth=16))):
        picture = taken(opened(path))
        assert picture.png == path.read_bytes() and picture.title == path.stem


def test_a_packed_file_is_sent_byte_by_byte_though_it_is_gone_from_disk():
    path = file("packed.png", png(FOUR))
    image = opened(path)
    image.pack()
    path.unlink()
    assert taken(image).png == png(FOUR)


def test_a_generated_image_is_what_blender_shows():
    picture = taken(generated(FOUR / 255))
    assert picture.title == "Made Here"
    assert np.array_equal(decoded(picture.png)[:2, :2, 3], FOUR[..., 3])
    solid = FOUR[..., 3] > 0
    assert np.abs(decoded(picture.png).astype(int) - FOUR)[solid].max() <= 1  # Blender's bytes, straight alpha
    blank = bpy.data.images.new("blank", 16, 8)
    blank.generated_color = (0.0, 0.5, 1.0, 1.0)
    assert np.abs(decoded(taken(blank).png).astype(int) - (0, 128, 255, 255)).max() <= 1


def test_unsaved_strokes_are_sent_and_stay_unsaved():
    path = file("painted.png", png(FOUR))
    image = opened(path)
    image.pixels[0:4] = (1.0, 1.0, 0.0, 1.0)  # the bottom left one
    assert image.is_dirty
    pixels = decoded(taken(image).png)
    assert tuple(pixels[1, 0]) == (255, 255, 0, 255) and tuple(pixels[0, 0]) == (255, 0, 0, 255)
    assert path.read_bytes() == png(FOUR) and image.is_dirty


def test_a_packed_and_then_painted_image():
    image = opened(file("packed.png", png(FOUR)))
    image.pack()
    image.pixels[0:4] = (1.0, 1.0, 0.0, 1.0)
    assert tuple(decoded(taken(image).png)[1, 0]) == (255, 255, 0, 255)


def test_linear_floats_are_shown_by_the_srgb_curve():
    """0.2140 is shown as half; whites above one are clipped; what is no number is black."""
    linear = np.array([[(0.21404, 1.0, 0.0, 1.0), (4.0, -1.0, 1e30, 1.0)], [(0.0031, 0.0, 0.0, 1.0), (np.nan,) * 4]])
    pixels = decoded(taken(generated(linear, float_buffer=True)).png)
    assert np.abs(pixels[0].astype(int) - [(128, 255, 0, 255), (255, 0, 255, 255)]).max() <= 1
    assert abs(int(pixels[1, 0, 0]) - round(0.0031 * 12.92 * 255)) <= 1 and pixels[1, 1, 3] == 0


def test_float_colours_are_freed_of_their_alpha():
    """Blender keeps float colours multiplied with alpha, PNG does not."""
    premultiplied = np.array([[(0.5, 0.10702, 0.0, 0.5)]])
    pixel = decoded(taken(generated(premultiplied, float_buffer=True)).png)[0, 0]
    assert np.abs(pixel.astype(int) - (255, 128, 0, 128)).max() <= 1


def test_float_data_without_colours_is_sent_as_it_is():
    image = generated(np.array([[(0.25, 0.5, 0.75, 1.0)]]), float_buffer=True)
    image.colorspace_settings.name = "Non-Color"
    image.pixels.foreach_set(np.array([0.25, 0.5, 0.75, 1.0], np.float32))
    assert np.abs(decoded(taken(image).png)[0, 0].astype(int) - (64, 128, 191, 255)).max() <= 1


def saved_as(kind: str, mode: str, depth: str, name: str) -> Path:
    """A picture of another kind, written by Blender."""
    linear = np.array([[(0.21404, 1.0, 0.0, 1.0)] * 4] * 2)
    helper, path = bpy.data.scenes.new("helper"), harness.work / name
    output = helper.render.image_settings
    output.file_format, output.color_mode, output.color_depth = kind, mode, depth
    helper.view_settings.view_transform = "Standard"
    image = generated(linear, float_buffer=True)
    image.save_render(str(path), scene=helper)
    bpy.data.scenes.remove(helper)
    bpy.data.images.remove(image)
    return path


def test_kinds_that_only_blender_reads():
    for kind, mode, depth, name in (
        ("OPEN_EXR", "RGBA", "32", "light.exr"),
        ("OPEN_EXR", "RGB", "16", "half.exr"),
        ("HDR", "RGB", "32", "light.hdr"),
        ("TARGA", "RGBA", "8", "old.tga"),
    ):
        path = saved_as(kind, mode, depth, name)
        count = len(bpy.data.images)
        from_file = harness.module("pictures").picture_from_file(path)
        assert len(bpy.data.images) == count and from_file.title == path.stem
        for picture in (from_file, taken(opened(path))):
            assert np.abs(decoded(picture.png)[0, 0].astype(int) - (128, 255, 0, 255)).max() <= 2, kind


def test_kinds_that_the_server_reads_itself():
    for kind, mode, name in (("JPEG", "RGB", "a.jpg"), ("WEBP", "RGBA", "a.webp"), ("TIFF", "RGBA", "a.tif")):
        path = saved_as(kind, mode, "8", name)
        picture = harness.module("pictures").picture_from_file(path)
        assert picture.png == path.read_bytes() and decoded(picture.png).shape == (2, 4, 4)
    assert taken(opened(harness.work / "a.jpg")).png == (harness.work / "a.jpg").read_bytes()
    assert decoded(taken(opened(harness.work / "a.tif")).png).shape == (2, 4, 4)


def test_alpha_that_means_something_else_is_left_out():
    path = file("channels.png", png(FOUR))
    for mode in ("NONE", "CHANNEL_PACKED"):
        image = opened(path)
        image.alpha_mode = mode
        assert (decoded(taken(image).png)[..., 3] == 255).all()


def test_a_huge_one_is_made_smaller_by_areas():
    """Halves of black and white, four times as large as may be: still halves, the grey border between them."""
    pixels = harness.module("picture_pixels")
    side = 4608
    image = bpy.data.images.new("huge", side, side)
    values = np.zeros((side, side, 4), np.float32)
    values[..., 3] = 1
    values[: side // 2, :, :3] = 1  # the lower half
    image.pixels.foreach_set(values.ravel())
    small = decoded(taken(image).png)
    assert small.shape[0] * small.shape[1] <= pixels.MAX_PIXELS and small.shape[0] == side // 3
    assert (small[: side // 6, :, :3] == 0).all() and (small[side // 6 :, :, :3] == 255).all()


def test_transparent_neighbours_do_not_darken_an_edge():
    pixels = np.zeros((2, 2, 4), np.float32)
    pixels[0, 0] = (1, 0.5, 0, 1)
    small = harness.module("picture_pixels").converted(
        pixels, linear=False, premultiplied=False, opaque=False, max_pixels=1
    )
    assert small.tolist() == [[[255, 128, 0, 64]]]


def test_sides_that_do_not_divide():
    for shape in ((3, 1000), (1000, 1), (7, 5), (1, 1)):
        ones = np.ones((*shape, 4), np.float32)
        small = harness.module("picture_pixels").converted(
            ones, linear=True, premultiplied=True, opaque=False, max_pixels=6
        )
        assert (small == 255).all() and small.size > 0


def test_what_cannot_be_used_says_why():
    pictures = harness.module("pictures")
    refused("No picture is chosen", pictures.picture_from_image, None)
    missing = opened(file("missing.png", png(FOUR)))
    (harness.work / "missing.png").unlink()
    missing.reload()
    refused("is missing", pictures.picture_from_image, missing)
    broken = opened(file("broken.png", b"no picture"))
    refused("no pixels", pictures.picture_from_image, broken)
    tiled = bpy.data.images.new("tiles", 8, 8, tiled=True)
    refused("UDIM", pictures.picture_from_image, tiled)
    for source, words in (("MOVIE", "movie"), ("SEQUENCE", "sequence")):
        image = opened(MUG)
        image.source = source
        refused(words, pictures.picture_from_image, image)
    clear = generated(np.zeros((2, 2, 4)))
    refused("fully transparent", pictures.picture_from_image, clear)
    tiny_render(bpy.context.scene)
    bpy.ops.render.render()
    (result,) = [image for image in bpy.data.images if image.type == "RENDER_RESULT"]
    refused("no image of its own", pictures.picture_from_image, result)


def test_a_multilayer_file_says_why():
    path = harness.work / "layers.exr"
    scene = bpy.context.scene
    tiny_render(scene)
    if hasattr(scene.render.image_settings, "media_type"):
        scene.render.image_settings.media_type = "MULTI_LAYER_IMAGE"
    scene.render.image_settings.file_format = "OPEN_EXR_MULTILAYER"
    scene.render.filepath = str(path)
    bpy.ops.render.render(write_still=True)
    refused("layers", harness.module("pictures").picture_from_image, opened(path))
    refused("layers", harness.module("pictures").picture_from_file, path)


def test_files_that_cannot_be_used_say_why():
    take = harness.module("pictures").picture_from_file
    refused("is a folder", take, harness.work)
    refused("is not there", take, harness.work / "nowhere.png")
    refused("cannot be read", take, "/nowhere/\0.png")
    for content in (b"", b"no picture", b"%PDF-1.7", b"\x76\x2f\x31\x01 damaged"):
        refused("no picture that Blender can read", take, file("what.exr", content))
    refused("no picture", harness.module("pictures").picture_from_bytes, b"what")
    assert harness.module("pictures").picture_from_bytes(png(FOUR)).png == png(FOUR)


def test_a_path_beside_the_blend_file():
    bpy.ops.wm.save_as_mainfile(filepath=str(harness.work / "scene.blend"))
    file("beside.png", png(FOUR))
    assert harness.module("pictures").picture_from_file("//beside.png").png == png(FOUR)


def test_files_beyond_the_server_s_limits_are_made_smaller():
    """By pixels and by bytes, from their heads alone."""
    pictures, limits = harness.module("pictures"), harness.module("picture")
    path = file("wide.png", png(np.full((900, 1200, 4), 200, np.uint8)))
    kept = {name: getattr(pictures, name) for name in ("MAX_FILE_PIXELS", "MAX_FILE_BYTES")}
    assert kept == {name: getattr(limits, name) for name in kept}
    for name, value in (("MAX_FILE_PIXELS", 1_000_000), ("MAX_FILE_BYTES", 1000)):
        try:
            setattr(pictures, name, value)
            for picture in (pictures.picture_from_file(path), taken(opened(path))):
                assert picture.png != path.read_bytes() and decoded(picture.png).shape == (900, 1200, 4)
        finally:
            setattr(pictures, name, kept[name])


def test_more_pixels_than_are_read_at_once():
    """A clean file is scaled by Blender, as a copy; painted ones have no copy, so they say what to do."""
    pictures = harness.module("pictures")
    image = opened(file("wide.png", png(np.full((200, 400, 4), 200, np.uint8))))
    image.alpha_mode = "NONE"  # not sent as it is
    kept, pictures.MOST_READ = pictures.MOST_READ, 20_000
    try:
        small = decoded(taken(image).png)
        assert 0 < small.shape[0] * small.shape[1] <= 20_000 and (small == 200)[..., :3].all()
        assert abs(small.shape[1] / small.shape[0] - 2) < 0.1
        refused("400 x 200 pixels", pictures.picture_from_image, generated(np.ones((200, 400, 4))))
    finally:
        pictures.MOST_READ = kept


def tiny_render(scene: bpy.types.Scene) -> None:
    scene.render.engine = "CYCLES"  # the only one that needs no graphics driver
    scene.cycles.samples = 1
    scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = 32, 24, 100
    scene.render.film_transparent = True


def test_a_render_of_the_camera():
    """With its transparency; the scene's output settings, its path and its images are as before."""
    scene = bpy.context.scene
    tiny_render(scene)
    output = scene.render.image_settings
    for kind in ("OPEN_EXR", "JPEG"):
        output.file_format = kind
        output.color_mode = "RGB"
        scene.render.filepath = "//mine"
        before = [item.name for item in bpy.data.images]
        picture = harness.module("pictures").picture_from_render(scene)
        pixels = decoded(picture.png)
        assert pixels.shape == (24, 32, 4) and pixels[0, 0, 3] == 0 and pixels[12, 16, 3] == 255
        assert (output.file_format, output.color_mode, scene.render.filepath) == (kind, "RGB", "//mine")
        assert [item.name for item in bpy.data.images] == before and picture.title == "Scene render"


def test_no_render_without_a_camera_or_a_last_render():
    pictures, scene = harness.module("pictures"), bpy.context.scene
    refused("no render yet", lambda: pictures.picture_from_render(scene, render_now=False))
    scene.camera = None
    refused("no camera", pictures.picture_from_render, scene)


def test_without_a_window_there_is_no_viewport_and_no_clipboard():
    pictures = harness.module("pictures")
    refused("background mode", pictures.picture_from_viewport, bpy.context)
    refused("clipboard", pictures.picture_from_clipboard)
