"""The reader of GLB files: whatever is thrown at it, it ends with a clear error or a mesh that holds together."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blender_addon import glb as reader
from blender_addon.client_errors import Damaged
from blender_addon.glb import read_glb
from tests.support.glb_files import POSITIONS, TRIANGLES, check, document, glb


def changed(path: str, value) -> bytes:
    """The right file with one value of its description replaced; ``path`` is as `meshes.0.primitives`."""
    described = document(normals=True)
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place = described
    for part in way:
        place = place[part]
    place[last] = value
    return glb(described)


HUGE, BELOW = 2**62, -4
WRONG = {
    "count of zero": ("accessors.0.count", 0),
    "huge count": ("accessors.0.count", HUGE),
    "count that wraps around": ("accessors.1.count", 2**32 + 12),
    "negative count": ("accessors.1.count", BELOW),
    "count that is no number": ("accessors.0.count", "4"),
    "count with a point": ("accessors.0.count", 4.0),
    "count of true": ("accessors.0.count", True),
    "triangle with a corner missing": ("accessors.1.count", 11),
    "negative offset": ("accessors.0.byteOffset", BELOW),
    "offset beyond": ("accessors.0.byteOffset", 4),
    "huge offset": ("accessors.0.byteOffset", HUGE),
    "negative offset of a view": ("bufferViews.0.byteOffset", BELOW),
    "view beyond the file": ("bufferViews.1.byteLength", 52),
    "huge view": ("bufferViews.1.byteLength", HUGE),
    "negative view": ("bufferViews.1.byteLength", -48),
    "stride of zero": ("bufferViews.0.byteStride", 0),
    "stride that overlaps": ("bufferViews.0.byteStride", 4),
    "huge stride": ("bufferViews.0.byteStride", HUGE),
    "negative stride": ("bufferViews.0.byteStride", -12),
    "no view": ("accessors.0.bufferView", None),
    "view that is not there": ("accessors.0.bufferView", 9),
    "negative view number": ("accessors.0.bufferView", -1),
    "positions of bytes": ("accessors.0.componentType", 5121),
    "positions of pairs": ("accessors.0.type", "VEC2"),
    "indices with a point": ("accessors.1.componentType", 5126),
    "indices of signed bytes": ("accessors.1.componentType", 5120),
    "type that is a list": ("accessors.1.componentType", [5125]),
    "indices as positions": ("meshes.0.primitives.0.attributes.POSITION", 1),
    "positions as indices": ("meshes.0.primitives.0.indices", 0),
    "normals of another number": ("meshes.0.primitives.0.attributes.NORMAL", 1),
    "accessor that is not there": ("meshes.0.primitives.0.indices", 7),
    "sparse accessor": ("accessors.0.sparse", {"count": 1}),
    "buffer in a file": ("buffers.0.uri", "file:///etc/passwd"),
    "buffer in the text": ("buffers.0.uri", "data:application/octet-stream;base64,AAAA"),
    "second buffer": ("bufferViews.0.buffer", 1),
    "points": ("meshes.0.primitives.0.mode", 0),
    "strips": ("meshes.0.primitives.0.mode", 5),
    "no attributes": ("meshes.0.primitives.0.attributes", None),
    "no positions": ("meshes.0.primitives.0.attributes", {}),
    "no primitives": ("meshes.0.primitives", []),
    "primitives that are none": ("meshes.0.primitives", [[]]),
    "no meshes": ("meshes", []),
    "meshes that are none": ("meshes", 7),
    "nodes in a ring": ("nodes", [{"mesh": 0, "children": [0]}]),
    "nodes in a larger ring": ("nodes", [{"children": [1]}, {"children": [2]}, {"mesh": 0, "children": [1]}]),
    "node that is not there": ("nodes.0.mesh", 3),
    "child that is not there": ("nodes.0.children", [-1]),
    "children that are no list": ("nodes.0.children", {"0": 1}),
    "scene that is not there": ("scene", 4),
    "scenes that are none": ("scenes", [4]),
    "matrix that is too short": ("nodes.0.matrix", [1, 0]),
    "matrix of words": ("nodes.0.matrix", ["1"] * 16),
    "matrix that throws all away": ("nodes.0.matrix", [1e300] * 16),
    "rotation by nothing": ("nodes.0.rotation", [0, 0, 0, 0]),
    "place beyond numbers": ("nodes.0.translation", [10**400, 0, 0]),
    "draco": ("extensionsRequired", ["KHR_draco_mesh_compression"]),
    "meshopt": ("extensionsRequired", ["EXT_meshopt_compression"]),
    "unknown extension": ("extensionsRequired", ["ACME_shape"]),
    "extensions that are none": ("extensionsRequired", "KHR_draco_mesh_compression"),
    "version 1": ("asset.version", "1.0"),
    "no version": ("asset", {}),
    "asset that is none": ("asset", "2.0"),
}


@pytest.mark.parametrize(("path", "value"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_value_is_told(path, value):
    with pytest.raises(Damaged) as error:
        read_glb(changed(path, value))
    assert len(error.value.message) > 15


def test_what_is_compressed_is_named():
    with pytest.raises(Damaged, match="compressed.*KHR_draco_mesh_compression.*Blender's own"):
        read_glb(changed("extensionsRequired", ["KHR_draco_mesh_compression"]))


def test_a_corner_that_is_no_vertex():
    wrong = TRIANGLES.copy()
    wrong[2, 1] = 4
    with pytest.raises(Damaged, match="no vertex"):
        read_glb(glb(document(), POSITIONS.tobytes() + wrong.tobytes()))
    wrong[2, 1] = 2**32 - 1  # -1 in 32 bits
    with pytest.raises(Damaged, match="no vertex"):
        read_glb(glb(document(), POSITIONS.tobytes() + wrong.tobytes()))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_positions_that_are_nowhere(value):
    wrong = POSITIONS.copy()
    wrong[1, 2] = value
    with pytest.raises(Damaged, match="finite"):
        read_glb(glb(document(), wrong.tobytes() + TRIANGLES.tobytes()))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        '{"asset": NaN}',
        "[" * 100_000,
        '{"a":' * 50_000,
        '{"asset": ' + "9" * 5000 + "}",
        "\ud800",
    ],
    ids=["empty", "list", "null", "cut", "NaN", "deep", "deep objects", "long number", "no text"],
)
def test_a_description_that_is_none(text):
    content = glb("{}") if text == "\ud800" else glb(text)
    with pytest.raises(Damaged):
        read_glb(content.replace(b"{}", b"\xff\xfe") if text == "\ud800" else content)


def test_a_deep_tree_of_nodes_is_read():
    described = document()
    described["nodes"] = [{"children": [index + 1], "scale": [1, 1, 1]} for index in range(5000)] + [{"mesh": 0}]
    assert len(read_glb(glb(described)).triangles) == 4


def test_too_many_nodes_and_parts_end_soon():
    described = document()
    described["nodes"] = [{"mesh": 0} for _ in range(20_000)]
    described["scenes"] = [{"nodes": list(range(20_000))}]
    with pytest.raises(Damaged):
        read_glb(glb(described))
    described = document()
    described["meshes"][0]["primitives"] *= 20_000
    with pytest.raises(Damaged):
        read_glb(glb(described))


def test_more_triangles_than_blender_should_load(monkeypatch):
    """Counted before anything is read: a file of a few bytes may say that it has billions, by naming the same again."""
    monkeypatch.setattr(reader, "MAX_TRIANGLES", 7)
    with pytest.raises(Damaged, match="more than 7 triangles.*face budget"):
        described = document()
        described["nodes"] = [{"mesh": 0}, {"mesh": 0}]
        described["scenes"] = [{"nodes": [0, 1]}]
        read_glb(glb(described))
    assert len(read_glb(glb(document())).triangles) == 4


def test_the_limit_is_five_million():
    count = 3 * (reader.MAX_TRIANGLES + 1)
    assert reader.MAX_TRIANGLES == 5_000_000
    described = document()
    described["accessors"][1]["count"] = count
    described["bufferViews"][1]["byteLength"] = 4 * count
    with pytest.raises(Damaged, match="5,000,000"):
        read_glb(glb(described, POSITIONS.tobytes() + bytes(4 * count)))


def test_a_file_that_is_too_large_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "a.glb"
    path.write_bytes(glb(document()))
    with pytest.raises(Damaged, match="cannot be read"):
        read_glb(tmp_path / "none.glb")
    with pytest.raises(Damaged, match="cannot be read"):
        read_glb(tmp_path)
    monkeypatch.setattr(reader, "MAX_FILE_BYTES", 100)
    with pytest.raises(Damaged, match="larger"):
        read_glb(path)
    with pytest.raises(Damaged, match="larger"):
        read_glb(path.read_bytes())


def test_no_memory_is_told(monkeypatch):
    def none_left(*_):
        raise MemoryError

    monkeypatch.setattr(reader, "_joined", none_left)
    with pytest.raises(Damaged, match="memory"):
        read_glb(glb(document()))


# --- files that nobody thought of ---


def survives(content: bytes) -> None:
    try:
        data = read_glb(content)
    except Damaged as error:
        assert error.message
    else:
        check(data)


@pytest.mark.filterwarnings("error")
def test_every_cut_of_a_file():
    content = glb(document(normals=True))
    for length in range(len(content)):
        with pytest.raises(Damaged):
            read_glb(content[:length])


def test_every_flipped_bit_of_a_file():
    content = glb(document(normals=True))
    for place in range(len(content)):
        for bit in range(8):
            survives(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=400))
def test_any_bytes(content):
    survives(content)
    survives(glb(document())[:20] + content)


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 200)
    | st.sampled_from([2**31, 2**32 + 1, 2**63, 10**30, -(2**63)])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["VEC3", "SCALAR", "MAT4", "", "2.0", "uri"])
    | st.sampled_from([5120, 5121, 5123, 5125, 5126]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["mesh", "children", "count", "bufferView", "byteOffset", "matrix", "POSITION", "uri", "mode"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


def places(value, path=()):
    """Every place in a document."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield from places(item, (*path, key))


PLACES = [path for path in places(document(normals=True)) if path]


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(PLACES), ANY), min_size=1, max_size=3))
def test_any_value_in_any_place(changes):
    described = document(normals=True)
    for path, value in changes:
        place = described
        try:
            for part in path[:-1]:
                place = place[part]
            place[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    survives(glb(json.dumps(described)))
