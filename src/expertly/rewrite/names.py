"""What the name of a feed-forward's parameter says."""


def layer_of(parameter: str) -> int:
    """The number in `layers.3.feed_forward.router.w_ED`."""
    return int(parameter.split(".")[1])


def kind_of(parameter: str) -> str:
    """gate, up or down, of `layers.3.feed_forward.experts.w_gate_EFD` and its like."""
    return parameter.rpartition(".w_")[2].split("_")[0]


def dense_name(layer: int, kind: str) -> str:
    """The matrix of a dense feed-forward."""
    suffix = "DF" if kind == "down" else "FD"
    return f"layers.{layer}.feed_forward.w_{kind}_{suffix}"
