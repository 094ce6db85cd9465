"""Runs of recipes on a pretended GPU, a process of its own: `python pretend_runs.py FOLDER` trains
each .toml file in it there and on the processor; what it finds goes to FOLDER/found.json."""

import io
import json
import os
import sys
import traceback
from pathlib import Path

import router_rules
import torch
from rich.console import Console

from expertly.mixture import MixtureLayer, Routing, Tokens, balance
from expertly.model import Decoder, initialise
from expertly.parallel import Ranks
from expertly.train import loop
from expertly.train.begin import begin
from expertly.train.recipe import Recipe, read_recipe
from expertly.train.state import optimiser_tensors
from tests.pretending import DEVICE, pretending, waited_for

CPU = torch.device("cpu")


def _rows(folder: Path, kind: str) -> list[dict]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def _train(recipe: Recipe, folder: Path, device: torch.device, **how) -> None:
    loop.resolve_device = lambda _: device
    with pretending():
        loop.train(recipe, folder, console=Console(file=io.StringIO()), **how)


def _compare(path: Path) -> dict:
    """A run on each device, both stopped and resumed; and one that moves from here to there."""
    recipe, out = read_recipe(path), path.with_suffix("")
    found = {}
    for name, devices in {
        "cpu": (CPU, CPU),
        "gpu": (DEVICE, DEVICE),
        "moved": (DEVICE, CPU),
    }.items():
        run = out / name
        _train(recipe, run, devices[0], stop_after=2)
        places = _places(recipe, run, devices[1])
        _train(recipe, run, devices[1], resume=True)
        found[name] = {
            "losses": [row["loss"] for row in _rows(run, "step")],
            "norms": [row["grad_norm"] for row in _rows(run, "step")],
            "entropies": [row["token_entropy"] for row in _rows(run, "router")],
            "bits": [
                bits for row in _rows(run, "evaluation") for bits in row["bits_per_byte"].values()
            ],
            "places": places,
        }
    return found


def _places(recipe: Recipe, run: Path, device: torch.device) -> list[str]:
    """Where all that a resumed run holds is."""
    with pretending():
        state = begin(recipe, run, lambda _: None, Ranks(device=device)).state
        tensors = [*state.model.state_dict().values(), *optimiser_tensors(state).values()]
    return sorted({tensor.device.type for tensor in tensors})


def _waits(name: str) -> dict:
    """What a layer's two passes, losses of it and a model's pass wait for."""
    with pretending():
        model = Decoder(router_rules.config_of(name))
        initialise(model, 0)
        model.to(DEVICE).train()
        layer, routings = model.layers[0].feed_forward, []
        x_TD = torch.randn(12, 16, device=DEVICE)
        none_T = torch.zeros(12, dtype=torch.int64, device=DEVICE)
        tokens = Tokens(none_T == 0, none_T, none_T)
        ids_BS = torch.randint(40, (2, 8)).to(DEVICE)
        return {
            "layer": waited_for(lambda: routings.append(_passes(layer, x_TD, tokens))),
            "losses": waited_for(lambda: _losses(routings[0])),
            "model": waited_for(lambda: model(ids_BS, routings=True).logits.sum().backward()),
        }


def _passes(layer: MixtureLayer, x_TD: torch.Tensor, tokens: Tokens) -> Routing:
    y_TD, routing = layer(x_TD, tokens)
    y_TD.sum().backward()
    return routing


def _losses(routing: Routing) -> None:
    for loss in (balance.load_balance, balance.importance, balance.router_z):
        loss(routing)


def _refusal() -> str:
    with pretending():
        try:
            torch.ones(3, device=DEVICE) + torch.ones(3)
        except RuntimeError as error:
            return str(error)
    return ""


def main() -> None:
    torch.set_num_threads(1)
    folder, found = Path(sys.argv[1]), {}
    for path in sorted(folder.glob("*.toml")):
        try:
            found[path.stem] = _compare(path)
        except Exception:
            found[path.stem] = {"error": traceback.format_exc()}
    waits = {name: _waits(name) for name in router_rules.NAMES if name != "soft"}
    text = json.dumps({"runs": found, "waits": waits, "refusal": _refusal()})
    (folder / "found.json").write_text(text)
    # the engine's threads for a device never end by themselves
    os._exit(0)


if __name__ == "__main__":
    main()
