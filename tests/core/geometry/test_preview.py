"""Pictures of meshes: outline, depth, sides, shading."""

import io
import math

import numpy as np
import pytest
import trimesh
from PIL import Image

from core.geometry.mesh import Mesh
from core.geometry.preview import contact_sheet, mesh_png, render_mesh, turntable_webp


def sphere(radius=1.0, center=(0.0, 0.0, 0.0), subdivisions=4) -> Mesh:
    made = trimesh.creation.icosphere(subdivisions, radius)
    return Mesh(made.vertices + center, made.faces)


def joined(*meshes: Mesh) -> Mesh:
    starts = np.cumsum([0] + [mesh.num_vertices for mesh in meshes])
    faces = [mesh.faces + start for mesh, start in zip(meshes, starts, strict=False)]
    return Mesh(np.concatenate([mesh.vertices for mesh in meshes]), np.concatenate(faces))


@pytest.mark.parametrize("scale, yaw, pitch", [(1.0, 0, 0), (30.0, 140, -40)])
def test_the_outline_of_a_sphere_is_a_disc_that_fills_the_frame(scale, yaw, pitch):
    picture = render_mesh(sphere(scale, (5.0, 0.0, 0.0)), 128, yaw=yaw, pitch=pitch)
    assert picture.shape == (128, 128, 4) and picture.dtype == np.uint8
    coverage = picture[..., 3].sum() / 255
    assert coverage == pytest.approx(math.pi * (64 * 0.92) ** 2, rel=0.01)
    rows, columns = np.nonzero(picture[..., 3])
    assert abs(rows.mean() - 63.5) < 0.5 and abs(columns.mean() - 63.5) < 0.5


def test_light_comes_from_above_and_shading_is_smooth():
    picture = render_mesh(sphere(), 128, yaw=0, pitch=0)[..., :3].astype(int)
    assert picture[30, 64].sum() > picture[100, 64].sum() + 60
    column = picture[20:108, 64].sum(1)
    assert np.abs(np.diff(column)).max() < 40  # no facets


def test_what_is_nearer_hides_what_is_behind():
    near, far = sphere(0.3, (0, 0, 0.7)), sphere(0.5, (0, 0, -0.5))
    both = joined(far, near)
    front = render_mesh(both, 96, yaw=0, pitch=0)
    assert np.array_equal(front, render_mesh(joined(near, far), 96, yaw=0, pitch=0))
    colored = render_mesh(both, 96, yaw=0, pitch=0, color=(1.0, 0.0, 0.0))
    assert colored[..., 1].max() == 0 and colored[48, 48, 0] > 150
    behind = render_mesh(both, 96, yaw=180, pitch=0)
    assert not np.array_equal(front, behind)


def test_yaw_shows_the_own_right_side_and_pitch_the_top():
    mesh = joined(sphere(0.4), sphere(0.1, (1.0, 0, 0)), sphere(0.1, (0, 1.0, 0)))

    def center(picture):
        rows, columns = np.nonzero(picture[..., 3])
        return columns.mean(), rows.mean()

    front = render_mesh(mesh, 96, yaw=0, pitch=0)
    assert front[:, 80:, 3].any() and front[:16, :, 3].any()  # +X to the right, +Y up
    turned = render_mesh(mesh, 96, yaw=90, pitch=0)
    assert center(turned)[0] == pytest.approx(47.5, abs=2)  # the eye is at +X: that sphere is in the middle
    assert not np.array_equal(render_mesh(mesh, 96, yaw=0, pitch=90), front)


def test_only_faces_that_look_at_the_eye_if_asked():
    inside_out = sphere().flipped()
    culled = render_mesh(inside_out, 64, cull=True)
    seen = render_mesh(inside_out, 64)
    assert culled[..., 3].sum() == pytest.approx(seen[..., 3].sum(), rel=0.02)  # the far wall, through the near one
    triangle = Mesh(np.array([[-1, -1, 0], [1, -1, 0], [0, 1, 0]]), np.array([[0, 1, 2]]))
    assert render_mesh(triangle, 64, yaw=0, pitch=0, cull=True).any()
    assert not render_mesh(triangle, 64, yaw=180, pitch=0, cull=True).any()
    front, back = (render_mesh(triangle, 64, yaw=yaw, pitch=0) for yaw in (0, 180))
    assert back[..., 3].any() and back[32, 32, :3].sum() < front[32, 32, :3].sum()


def test_an_empty_mesh_is_an_empty_picture():
    assert not render_mesh(Mesh(np.zeros((0, 3)), np.zeros((0, 3))), 16).any()


def test_a_sheet_keeps_proportions():
    wide = np.full((10, 40, 3), 7, np.uint8)
    clear = np.zeros((10, 10, 4), np.uint8)
    sheet = np.asarray(contact_sheet([[wide, clear], [wide]], cell=32, gap=4))
    assert sheet.shape == (2 * 36 + 4, 2 * 36 + 4, 3)
    assert (sheet[4:36, 4:36] == 7).all(2).sum() == 32 * 8
    assert (sheet[:, 40:] == 255).all()


def test_a_png_of_a_mesh_is_its_picture():
    with Image.open(io.BytesIO(mesh_png(sphere(), 48))) as file:
        assert file.format == "PNG"
        assert np.array_equal(np.asarray(file), render_mesh(sphere(), 48))


def test_a_turntable_goes_once_around_and_stays_transparent():
    """Each frame is compared with the picture that it shall show; an error of order or direction would be 100 times."""
    box = trimesh.creation.box((1.0, 0.6, 0.3))
    mesh = joined(Mesh(box.vertices, box.faces), sphere(0.1, (0.5, 0.5, 0.2)))
    with Image.open(io.BytesIO(turntable_webp(mesh, 64, frames=8))) as file:
        assert (file.format, file.n_frames, file.size, file.info["loop"]) == ("WEBP", 8, (64, 64), 0)
        length = 0
        for frame in range(8):
            file.seek(frame)
            shown = np.asarray(file.convert("RGBA")).astype(int)
            wanted = render_mesh(mesh, 64, yaw=30 + 45 * frame)
            assert np.array_equal(shown[..., 3], wanted[..., 3])  # alpha is kept without loss
            solid = wanted[..., 3] == 255
            assert np.abs(shown[solid] - wanted[solid]).mean() < 5  # of 255, by the lossy colours
            length += file.info["duration"]
        assert length == 3000


def test_a_turntable_of_a_mesh_with_very_many_faces(monkeypatch):
    """It is simplified first, which must not show."""
    many = sphere(subdivisions=5)  # 20480 faces
    monkeypatch.setattr("core.geometry.preview._TURNTABLE_FACES", 2000)
    with Image.open(io.BytesIO(turntable_webp(many, 64, frames=2))) as file:
        alpha = np.asarray(file.convert("RGBA"))[..., 3] / 255
    assert alpha.sum() == pytest.approx(math.pi * (32 * 0.92) ** 2, rel=0.02)
