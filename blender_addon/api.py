# SPDX-License-Identifier: GPL-3.0-or-later
"""S2 Mesh for scripts and pipelines, with or without a window.

    from bl_ext.user_default.s2mesh import api

    made = api.generate("mug.png", preset="starter", seed=7, size=0.3)  # blocks; a bpy.types.Object

    jobs = [api.submit(path) for path in paths]  # several at once; the server works on one after the other
    for job in jobs:
        print(job.wait().import_mesh().name)

Call it from Blender's main thread only, as everything of `bpy`. Errors are `api.S2MeshError`, whose text says what is
wrong and what to do.
"""

import os
from collections.abc import Sequence
from typing import Any

import bpy

from . import headless, job_actions, server_control, submission
from .client_errors import S2MeshError
from .option_checks import EXPERT, NAMES
from .session import JobRecord
from .translations import t

__all__ = ["Job", "S2MeshError", "connect", "generate", "start_server", "stop_server", "submit"]

Picture = str | os.PathLike | bytes | bpy.types.Image


class Job:
    """One generation on the server. It goes on there whether this object lives or not."""

    def __init__(self, record: JobRecord) -> None:
        self._record = record

    @property
    def id(self) -> str:
        """The server's number of it; empty until the server has taken it."""
        return self._record.id

    @property
    def state(self) -> str:
        """sending, queued, running, interrupted, succeeded, failed or cancelled."""
        headless.pump(submission.running_app())
        return self._record.state

    @property
    def progress(self) -> float:
        """Share of the work that is done, 0 to 1."""
        headless.pump(submission.running_app())
        job = self._record.job
        return 0.0 if job is None else 1.0 if job.state == "succeeded" else job.fraction

    @property
    def seed(self) -> int | None:
        """The seed in use; None until the server has drawn one."""
        return self._record.job.options.get("seed") if self._record.job else None

    def wait(self, timeout: float | None = None) -> "Job":
        """Stay until the server has finished it.

        Args:
            timeout: seconds at most; None is without limit.

        Raises:
            S2MeshError: if it failed, was cancelled, or the time is over. The job itself goes on.
        """
        app = submission.running_app()
        headless.wait_until(app, lambda: self._record.finished, timeout=timeout, what=self._record.title)
        headless.raise_problem(self._record)
        return self

    def import_mesh(self, timeout: float | None = None) -> bpy.types.Object:
        """The mesh as an object in the scene that was current at submission; waits for the job if need be.

        Mode, selection and active object stay as they are. Called twice, it gives the same object, unless that was
        deleted.
        """
        app, record = submission.running_app(), self._record
        made = bpy.data.objects.get(record.object_name) if record.object_name else None
        if record.imported and made is not None:
            return made
        if not record.wanted or record.imported:
            self.wait(timeout)
            job_actions.want(app, record)
        return headless.wait_for(app, record, timeout)

    def cancel(self) -> None:
        """Ask the server to end it: at once if it waits, at its next step if it runs."""
        job_actions.cancel(submission.running_app(), self._record)

    def delete(self) -> None:
        """Remove the finished job and its files from the server. The object in the scene stays."""
        job_actions.delete(submission.running_app(), self._record)

    def __repr__(self) -> str:
        return f"<s2mesh job {self._record.id or 'on its way'} {self._record.title!r} {self._record.state}>"


def submit(
    image: Picture,
    *,
    size: float | None = None,
    origin: str | None = None,
    location: Sequence[float] | None = None,
    replace: bool = False,
    smooth: bool | None = None,
    **options: Any,
) -> Job:
    """Send a picture and return at once.

    Without a window nothing arrives by itself: use the job's `wait` or `import_mesh`. With one, the mesh appears in the
    scene when it is ready, as after a click on Generate.

    Args:
        image: a path, the content of a picture file, or a Blender image.
        size: length of the mesh's longest side in scene units; None is the scene's setting.
        origin: "BASE" (middle of the underside) or "CENTER"; None is the scene's setting.
        location: where the origin is put, in scene units; None is the scene's setting (3D cursor or world origin).
        replace: give the active mesh object the new shape instead of making an object.
        smooth: shade smooth; None is the scene's setting.
        **options: preset, seed, resolution (voxels a side), dense_steps, sparse_steps, dense_guidance,
            sparse_guidance, iso_level (-0.99 to 0.99), faces (triangles at most), max_tokens, background ("auto",
            "alpha", "none"), interior ("sign", "flood", "keep"), remove_floaters, remove_interior, and the
            approximations solver ("euler", "multistep", "heun"), guided_from, guided_until (0 to 1),
            unconditional_every, selection_every; and memory ("auto", "all", "stage", "stream"). What is not given, or
            None, is the server's or the preset's own; the scene's settings are not looked at.

    Raises:
        S2MeshError: for a picture that cannot be used, an unknown option or a value that the server is known to refuse.
    """
    known = (*NAMES, *EXPERT)
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise S2MeshError(
            t("There is no option {name}").format(name=", ".join(unknown)),
            t("Known are {names}").format(names=", ".join(known)),
        )
    given = {name: value for name, value in options.items() if value is not None}
    picture, source = submission.picture_of(image)
    (record,) = submission.submit(
        bpy.context,
        picture,
        source,
        given,
        size=size,
        origin=origin,
        location=location,
        replace_selected=replace,
        smooth=smooth,
    )
    return Job(record)


def generate(image: Picture, *, wait: bool = True, timeout: float | None = None, **options: Any) -> Any:
    """Make a mesh of the object in a picture and return the object in the scene.

    Args:
        image: a path, the content of a picture file, or a Blender image.
        wait: False returns the Job at once, as `submit` does.
        timeout: seconds at most; None is without limit.
        **options: those of `submit`.

    Raises:
        S2MeshError: if there is no server or the generation fails; the text says what to do.
    """
    if not wait:
        return submit(image, **options)
    headless.wait_for_server(submission.running_app())
    return submit(image, **options).import_mesh(timeout)


def connect(url: str = "", token: str = "", *, timeout: float = 20.0) -> None:
    """Use the server at an address, for this session only; the preferences stay as they are.

    Args:
        url: such as "http://127.0.0.1:8493"; empty is what the preferences say.
        token: what `s2mesh token` prints there; empty is this machine's own.
        timeout: seconds to wait for its answer.

    Raises:
        S2MeshError: if it does not answer as it should.
    """
    app = submission.running_app()
    app.use_server(url, token)
    headless.wait_for_server(app, timeout=timeout)


def start_server(*, timeout: float = 120.0) -> None:
    """Start this machine's server, unless one runs already, and wait until it answers (seconds)."""
    headless.wait_for_server(submission.running_app(), start=True, timeout=timeout)


def stop_server() -> None:
    """Stop the server if this Blender started it; a running job is put off to the server's next start."""
    server_control.stop(submission.running_app())
