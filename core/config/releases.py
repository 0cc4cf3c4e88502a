"""What can be downloaded: which files of which repository, under which licence, how large. Data only.

``revision`` is the commit of a repository. These commits could not be looked up where this was written, so ``main``
stands there until somebody pins them. What ``main`` is at the first download is kept beside the weights (the commit
and every file's digest), and later downloads must be the same.

Sizes marked computed come from the networks' shapes; before anything is fetched the hub is asked for the real ones.
"""

from dataclasses import dataclass, replace

from core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Source:
    """Files of one repository of the Hugging Face hub."""

    title: str
    repo: str
    files: tuple[str, ...]  # inside ``folder``
    license: str
    about_bytes: int
    folder: str = ""  # inside the repository
    revision: str = "main"  # a commit once somebody has pinned it
    digests: tuple[tuple[str, str], ...] = ()  # SHA-256 of files where they are known beforehand
    by_hand: tuple[str, ...] = ()  # other names that the one file may have where somebody fetched it by hand

    @property
    def key(self) -> str:
        """Names the files in the record of downloads."""
        return f"{self.repo}/{self.folder}".rstrip("/")

    @property
    def page(self) -> str:
        """For people."""
        return f"https://huggingface.co/{self.repo}"

    def path(self, file: str) -> str:
        """Of one of ``files``, inside the repository."""
        return f"{self.folder}/{file}" if self.folder else file


@dataclass(frozen=True, kw_only=True)
class Release:
    """Something that is downloaded, checked, kept and removed as a whole."""

    name: str  # of the preset whose networks it holds, or its own
    title: str
    sources: tuple[Source, ...]
    is_preset: bool = (
        True  # its files are checkpoints, which are converted to a preset's; else they are used as they are
    )

    @property
    def about_bytes(self) -> int:
        """Of the download."""
        return sum(source.about_bytes for source in self.sources)

    @property
    def disk_bytes(self) -> int:
        """Needed while it is installed, about: the files that come, and as much again where they are converted."""
        return self.about_bytes * (2 if self.is_preset else 1)


_V1_1 = Source(
    title="Direct3D-S2 v1.1",
    repo="wushuang98/Direct3D-S2",
    folder="direct3d-s2-v-1-1",
    files=(
        "config.yaml",
        "model_dense.ckpt",
        "model_sparse_512.ckpt",
        "model_sparse_1024.ckpt",
        "model_refiner.ckpt",
        "model_refiner_1024.ckpt",
    ),
    license="MIT",
    about_bytes=4_240_000_000,  # computed: 2117 million weights of two bytes; twice that if they are stored in four
)
_V1_0 = replace(_V1_1, title="Direct3D-S2 v1.0", folder="direct3d-s2-v-1-0", about_bytes=4_280_000_000)  # computed
DINOV2 = Source(
    title="DINOv2 with registers, large (image encoder)",
    repo="facebook/dinov2-with-registers-large",
    files=("model.safetensors",),
    license="Apache-2.0",
    about_bytes=1_220_000_000,  # computed: 304 million weights of four bytes
    by_hand=("dinov2_vitl14_reg4_pretrain.pth", "dinov2.pth", "dinov2.safetensors"),
)
MATTING = "birefnet-lite"  # the release that cuts objects out of their background; the whole BiRefNet needs much memory
_MATTING = Source(
    title="BiRefNet lite, exported to ONNX",
    repo="onnx-community/BiRefNet_lite-ONNX",
    folder="onnx",
    files=("model.onnx",),
    license="MIT",
    about_bytes=224_005_088,
    # Of the authors' own file (BiRefNet-general-bb_swin_v1_tiny-epoch_232.onnx); other projects name the same.
    digests=(("model.onnx", "5600024376f572a557870a5eb0afb1e5961636bef4e1e22132025467d0f03333"),),
)

RELEASES: dict[str, Release] = {
    release.name: release
    for release in (
        Release(name="direct3d-s2-v1.1", title="Direct3D-S2 v1.1", sources=(_V1_1, DINOV2)),
        Release(name="direct3d-s2-v1.0", title="Direct3D-S2 v1.0", sources=(_V1_0, DINOV2)),
        Release(name=MATTING, title="Cuts objects out of photographs", sources=(_MATTING,), is_preset=False),
    )
}


def get_release(name: str) -> Release:
    """The release called ``name``.

    Raises:
        ConfigError: if there is none, listing those there are.
    """
    if name not in RELEASES:
        raise ConfigError(f"{name!r} cannot be downloaded. Known: {', '.join(RELEASES)}.")
    return RELEASES[name]
