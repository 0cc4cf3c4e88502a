"""Archives of a small S2 Mesh, and folders where one is unpacked, for the tests of installing."""

import functools

import pytest

from blender_addon.install_archive import fetch
from blender_addon.install_server import Installation
from tests.support.small_install import never, no_words, small_archive


@pytest.fixture
def small(tmp_path):
    """Makes archives of a small S2 Mesh."""
    return functools.partial(small_archive, tmp_path)


@pytest.fixture
def installed(small, tmp_path):
    """Makes an unpacked one."""

    def make(plan="works"):
        fetch(small(plan), tmp_path / "server", should_stop=never, progress=no_words)
        return Installation(tmp_path / "server")

    return make
