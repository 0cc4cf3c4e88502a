"""Initial weights of a diffusion transformer: at the start every block passes its input on unchanged."""

from torch import nn


def initialize_transformer(model: nn.Module) -> None:
    """Set the linear layers of ``model`` in place.

    Xavier for all; normal(0, 0.02) in ``t_embedder``; zero for the modulation and the last layer, so that
    the gates start closed (adaLN-Zero of DiT, Peebles and Xie 2023).
    """
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        if "adaLN_modulation" in name or name == "out_layer":
            nn.init.zeros_(module.weight)
        elif name.startswith("t_embedder"):
            nn.init.normal_(module.weight, std=0.02)
        else:
            nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
