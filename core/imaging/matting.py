"""A matting network from an ONNX file: data, not code. Run on the CPU by onnxruntime, an optional package.

It is prepared as BiRefNet's authors do: the picture at the network's side, ImageNet's mean and deviation, logits out.
H, W: height and width of the picture; S: side of the network.
"""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from core.errors import CheckpointError

SIDE = 1024  # where the file leaves it open
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def can_run() -> bool:
    """Whether onnxruntime is installed; it is not loaded."""
    return importlib.util.find_spec("onnxruntime") is not None


class OnnxMatting:
    """A ``MattingModel``; the file is read when the first picture needs it.

    Args:
        path: the network; takes [1, 3, S, S] and gives [1, 1, S, S] as its last output.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._session: Any = None

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """rgb [H, W, 3] uint8 to alpha [H, W] uint8.

        Raises:
            CheckpointError: if the file is damaged or is no such network.
        """
        session = self._session = self._session or self._open()
        entry = session.get_inputs()[0]
        side = entry.shape[2] if isinstance(entry.shape[2], int) else SIDE
        small = np.asarray(
            Image.fromarray(rgb).resize((side, side), Image.Resampling.BILINEAR), np.float32
        )  # [S, S, 3]
        pixels = ((small / 255 - _MEAN) / _DEVIATION).transpose(2, 0, 1)[None].astype(_TYPES[entry.type])
        logits = np.asarray(session.run(None, {entry.name: pixels})[-1], np.float32)
        if logits.shape != (1, 1, side, side):
            raise CheckpointError(f"{self.path} gives {list(logits.shape)} and is no matting network. {self._remedy()}")
        alpha = 255 / (1 + np.exp(-np.clip(logits[0, 0], -60, 60)))  # [S, S]
        whole = Image.fromarray(alpha.astype(np.uint8)).resize(rgb.shape[1::-1], Image.Resampling.BICUBIC)
        return np.asarray(whole)

    def _open(self) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.enable_cpu_mem_arena = False  # it would keep what one picture needed
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other work goes on beside it
        options.log_severity_level = 4
        try:
            # From memory: a network cannot have further files opened that it names.
            session = onnxruntime.InferenceSession(self.path.read_bytes(), options, ["CPUExecutionProvider"])
        except FileNotFoundError:
            raise CheckpointError(f"{self.path} is missing. {self._remedy()}") from None
        except Exception as error:  # its classes have no common parent
            cause = " ".join(str(error).split())[:160]
            raise CheckpointError(f"{self.path} is damaged ({cause}). {self._remedy()}") from error
        entries = session.get_inputs()
        if len(entries) != 1 or entries[0].type not in _TYPES or list(entries[0].shape[1:2]) != [3]:
            raise CheckpointError(f"{self.path} takes no picture and is no matting network. {self._remedy()}")
        return session

    def _remedy(self) -> str:
        return f"Run `s2mesh models download {self.path.parent.name} --replace`."
