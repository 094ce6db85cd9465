"""`expertly pack`: a model quantised into a packed folder, or into a GGUF file."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from expertly.cli.bar import bar
from expertly.cli.only import beside
from expertly.cli.output import note
from expertly.cli.plan import human
from expertly.cli.thread_option import Threads
from expertly.errors import InputError

if TYPE_CHECKING:
    from expertly.checkpoint.calibrating import Calibration
    from expertly.checkpoint.packed_saving import PackReport, Source
    from expertly.checkpoint.recipe import Recipe

_BITS = 4
_PACKAGED = "packaged"
_LISTED = 8
# what bits stand for in GGUF files, which have no i4
_GGUF = {2: "q2_k", 3: "q3_k", 4: "q4_k", 5: "q5_k", 6: "q6_k", 8: "q8_0", 16: "f16", 32: "f32"}

Model = Annotated[str, typer.Argument(help='A folder or a hub id; "" is the bundled model.')]
Out = Annotated[
    Path, typer.Argument(metavar="OUT", help="The new folder, or a file that ends in .gguf.")
]
Bits = Annotated[
    int | None,
    typer.Option(
        help="Bits of the experts: 2, 3, 4, 5, 6, 8, 16 or 32. What every token passes gets 8 or "
        "more.",
        show_default="4",
    ),
]
Type = Annotated[
    str | None,
    typer.Option("--type", metavar="NAME", help="One format for all matrices, as q4_k or i4."),
]
Average = Annotated[
    float | None,
    typer.Option(
        metavar="BITS",
        help="Bits of all weights on average; experts that are used more get more.",
    ),
]
Calibrate = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT",
        help=f'A text file, or "{_PACKAGED}" for the texts of this package: rounding then errs '
        "where the text does not feel it. Repeatable.",
    ),
]
MaxTokens = Annotated[int, typer.Option(min=1, help="Tokens of calibration in all.")]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATTERN=TYPE",
        help="A format for matrices by name, as 'layers.0.*=q8_0'. Repeatable; the last counts.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

CONDITIONS = (beside("--calibrate", "max_tokens", hint='add --calibrate TEXT, or "packaged"'),)


def command(
    model: Model,
    out: Out,
    bits: Bits = None,
    kind: Type = None,
    average: Average = None,
    calibrate: Calibrate = None,
    max_tokens: MaxTokens = 32768,
    keep: Keep = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Quantise a model into a folder that loads at once, or into a GGUF file."""
    _check_kind(bits, kind, average)
    _check_place(out)
    if out.exists():
        raise InputError(f"{out} exists already", hint="give another name or remove it first")
    # files first: a typing slip should not wait for a model
    texts = _read_texts(calibrate or [], max_tokens)
    if out.suffix == ".gguf":
        if average is not None or keep:
            raise InputError(
                "a GGUF file has one type for all experts", hint="leave --average and --keep out"
            )
        report = _to_gguf(model, out, _gguf_type(bits, kind), texts, max_tokens, threads)
    else:
        recipe = _recipe(bits, kind, keep or [])
        report = _to_folder(model, out, recipe, average, texts, max_tokens, threads)
    if as_json:
        print(json.dumps(report))
    else:
        _print(report)


def _check_kind(bits: int | None, kind: str | None, average: float | None) -> None:
    given = {"--bits": bits, "--type": kind, "--average": average}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise InputError(f"{names[0]} and {names[1]} together", hint="give one of them")


def _check_place(out: Path) -> None:
    """What has no name of its own is refused; and a GGUF file is written beside others, and read
    again by its name."""
    if str(out) == ".":
        raise InputError(
            "OUT is empty, or this folder", hint="name the new folder, or a file that ends in .gguf"
        )
    if out.name.lower() == ".gguf":
        raise InputError(f"{out} is an ending without a name", hint="as model.gguf")
    if out.is_symlink() and not out.exists():
        raise InputError(
            f"{out} is a link to what is not there", hint="give another name or remove it first"
        )
    if out.suffix.lower() != ".gguf":
        return
    if out.suffix != ".gguf":
        raise InputError(
            f"{out} ends in {out.suffix}",
            hint=f"GGUF files end in .gguf: {out.with_suffix('.gguf')}",
        )
    if not out.parent.is_dir():
        raise InputError(
            f"{out.parent} is not there, or no folder", hint=f"make it first: mkdir -p {out.parent}"
        )


def _recipe(bits: int | None, kind: str | None, keep: list[str]) -> "Recipe":
    from expertly.checkpoint.recipe import read_keep, recipe_of_bits, recipe_of_type

    kept = [read_keep(text) for text in keep]
    if kind is not None:
        return recipe_of_type(kind, kept)
    return recipe_of_bits(_BITS if bits is None else bits, kept)


def _gguf_type(bits: int | None, kind: str | None) -> str:
    from expertly.checkpoint.recipe import checked_format
    from expertly.formats.blocks import BLOCKS

    if kind is None:
        bits = _BITS if bits is None else bits
        if bits not in _GGUF:
            known = ", ".join(map(str, _GGUF))
            raise InputError(f"{bits} bits a weight are not known", hint=f"use one of {known}")
        return _GGUF[bits]
    kind = checked_format(kind)
    if BLOCKS[kind].ggml_id is None:
        raise InputError(f"GGUF files have no type {kind}", hint="use q4_k, or pack into a folder")
    return kind


def _read_texts(names: list[str], max_tokens: int) -> list[str]:
    from expertly.observe.texts import read_text
    from expertly.text import corpora

    texts = []
    for name in names:
        if name == _PACKAGED:
            texts += [corpora.training_text(domain) for domain in corpora.domains()]
        else:
            texts.append(read_text(Path(name), max_tokens))
    return texts


def _to_folder(
    model: str,
    out: Path,
    recipe: "Recipe",
    average: float | None,
    texts: list[str],
    max_tokens: int,
    threads: int | None,
) -> dict[str, Any]:
    from expertly.checkpoint.allocating import with_average
    from expertly.checkpoint.packed_saving import save_packed
    from expertly.machine import thread_count

    with _source(model) as (folder, source):
        calibration = _calibrate(folder, texts, max_tokens) if texts else None
        if average is not None:
            with bar("measuring") as progress:
                recipe = with_average(
                    recipe, source.config, source.rows, average, calibration, progress
                )
        with bar("packing") as progress:
            report = save_packed(
                source,
                out,
                recipe,
                calibration=calibration,
                threads=thread_count(threads),
                progress=progress,
            )
    return _told(out, report, calibration)


@contextmanager
def _source(model: str) -> Iterator[tuple[Path, "Source"]]:
    from expertly.checkpoint.packed_saving import open_folder

    folder = _located(model)
    with open_folder(folder) as source:
        yield folder, source


def _located(model: str) -> Path:
    from expertly.checkpoint import locate
    from expertly.formats.packed import is_packed

    folder = locate(model)
    if is_packed(folder):
        raise InputError(f"{model} is packed already", hint="give the model that it was made from")
    return folder


def _calibrate(folder: Path, texts: list[str], max_tokens: int) -> "Calibration":
    from expertly.checkpoint import load
    from expertly.checkpoint.calibrating import calibrate, draw_windows

    decoder = load(folder, "float32")
    if decoder.tokenizer is None:
        raise InputError(f"{folder} has no tokenizer", hint="pack it without --calibrate")
    windows = draw_windows(decoder.config, decoder.tokenizer, texts, max_tokens)
    with bar("calibrating") as progress:
        return calibrate(decoder, windows, progress)


def _to_gguf(
    model: str, out: Path, kind: str, texts: list[str], max_tokens: int, threads: int | None
) -> dict[str, Any]:
    from expertly.checkpoint.gguf_saving import save_gguf
    from expertly.checkpoint.shards import read_json
    from expertly.families import read_config
    from expertly.machine import thread_count

    folder = _located(model)
    calibration = _calibrate(folder, texts, max_tokens) if texts else None
    importance = None
    if calibration is not None:
        importance = calibration.by_parameter(read_config(read_json(folder / "config.json")))
    with bar("packing") as progress:
        report = save_gguf(folder, out, kind, importance, thread_count(threads), progress)
    told = {"out": str(out), "type": kind, "bytes": report.num_bytes}
    told |= {"bits_per_weight": round(report.bits_per_weight, 3)}
    told |= {"weights": dict(report.weights), "fell_back": _fallen(report.fell_back)}
    return told | {"differences": [*report.differences]} | _calibration_told(calibration)


def _fallen(fell_back: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    return [
        {"asked": asked, "used": used, "matrices": count}
        for (asked, used), count in fell_back.items()
    ]


def _calibration_told(calibration: "Calibration | None") -> dict[str, Any]:
    if calibration is None:
        return {"calibration_tokens": 0, "unreached": []}
    return {
        "calibration_tokens": calibration.num_tokens,
        "unreached": [list(pair) for pair in calibration.unreached],
    }


def _told(out: Path, report: "PackReport", calibration: "Calibration | None") -> dict[str, Any]:
    return {
        "out": str(out),
        "bytes": report.num_bytes,
        "bits_per_weight": round(report.bits_per_weight, 3),
        "weights": dict(report.weights),
        "fell_back": _fallen(report.fell_back),
        **_calibration_told(calibration),
    }


def _print(report: dict[str, Any]) -> None:
    size = f"{report['out']}: {human(report['bytes'])}"
    kind = f" of {report['type']}" if "type" in report else ""
    print(f"{size}{kind}, {report['bits_per_weight']} bits a weight")
    _print_formats(report)
    for difference in report.get("differences", ()):
        note(f"note: {difference}")
    if unreached := report["unreached"]:
        names = ", ".join(f"{layer}.{expert}" for layer, expert in unreached[:_LISTED])
        more = f" and {len(unreached) - _LISTED} more" if len(unreached) > _LISTED else ""
        note(
            f"the calibration text did not reach {len(unreached)} experts "
            f"(layer.expert {names}{more}): they were rounded as their layer's average"
        )


def _print_formats(report: dict[str, Any]) -> None:
    total = sum(report["weights"].values())
    for name, count in sorted(report["weights"].items(), key=lambda item: -item[1]):
        print(f"  {name:7} {count:>15,} weights  {count / total:6.1%}")
    for step in report["fell_back"]:
        print(
            f"  {step['matrices']:,} x {step['used']}: {step['asked']} does not suit rows of their "
            "width"
        )
