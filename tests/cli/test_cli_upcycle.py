"""`expertly upcycle` and `expertly merge`: options to choices, data to stdout, refusals by name."""

import json
from pathlib import Path

import pytest
from saved_model import save_small

from expertly.checkpoint import load
from expertly.cli import main


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(
        tmp_path_factory.mktemp("upcycle") / "dense",
        drop=("num_local_experts", "num_experts_per_tok", "architectures"),
        model_type="llama",
    )


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_a_dense_model_becomes_a_mixture_that_loads(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("upcycle", dense, tmp_path / "out", "--experts", 4) == 0
    told = capsys.readouterr().out
    assert "mixtral, 4 experts of width 12, 2 chosen" in told
    assert "computes what its source computes" in told
    assert load(tmp_path / "out").config.mixture_layers == (0, 1)


def test_every_option_reaches_the_mixture(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--method", "fine-grained", "--granularity", 4, "--shared", 1, "--chosen", 5]
    options += ["--every", 2, "--redraw", 0.25, "--noise", 0.01, "--seed", 3]
    options += ["--family", "qwen2_moe", "--experts", 6, "--json"]
    assert run("upcycle", dense, tmp_path / "out", *options) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["family"] == "qwen2_moe"
    assert (report["num_experts"], report["num_chosen"]) == (6, 5)
    assert (report["expert_size"], report["shared_size"]) == (3, 3)
    assert (report["mixture_layers"], report["is_exact"]) == (1, False)
    assert report["bytes"] == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())


def test_a_mixtures_experts_are_copied(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("upcycle", folder, tmp_path / "out", "--duplicate", 3, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["num_experts"], report["num_chosen"]) == (15, 6)
    assert report["is_exact"] is True


def test_copies_with_fewer_chosen_say_that_they_are_something_else(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("upcycle", folder, tmp_path / "out", "--duplicate", 2, "--chosen", 2) == 0
    assert "computes something else than its source" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "nothing to make"),
        (["--experts", 4, "--method", "clone"], "method 'clone' is not known"),
        (["--experts", 4, "--chosen", 1], "1 experts chosen out of 4"),
        (["--experts", 4, "--granularity", 2], "copy takes whole feed-forwards"),
        (["--experts", 4, "--family", "olmoe"], "no olmoe can be made"),
        (["--duplicate", 2], "this llama has no experts to copy"),
        (["--duplicate", 2, "--experts", 4], "--duplicate together with --experts"),
        (["--duplicate", 2, "--method", "drop"], "--duplicate together with --method"),
    ],
)
def test_what_cannot_be_made_is_an_error_with_a_hint(
    options: list[object],
    told: str,
    dense: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("upcycle", dense, tmp_path / "out", *options) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert told in streams.err
    assert "hint: " in streams.err
    assert not (tmp_path / "out").exists()


def test_a_mixture_is_told_how_its_experts_are_copied(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("upcycle", folder, tmp_path / "out", "--experts", 8) == 2
    assert "--duplicate 2" in capsys.readouterr().err


def test_models_on_the_command_line_merge_with_the_first_as_base(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--others", "base", "--chosen", 2, "--seed", 1, "--json"]
    assert run("merge", dense, dense, dense, dense, tmp_path / "out", *options) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["family"], report["num_experts"], report["num_chosen"]) == ("mixtral", 3, 2)
    assert report["is_exact"] is False


def test_a_recipe_merges_with_gates_made_of_its_prompts(
    dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "merge.toml"
    recipe.write_text(
        f"""
        gate = "hidden"
        [[experts]]
        source = "{dense}"
        positive = ["Solve", "Prove"]
        negative = ["Sing"]
        [[experts]]
        source = "{dense}"
        positive = ["Sing"]
        """
    )
    assert run("merge", recipe, tmp_path / "out") == 0
    assert "2 experts of width 12, 2 chosen" in capsys.readouterr().out
    rows_ED = load(tmp_path / "out", "float32").layers[0].feed_forward.router.w_ED
    assert rows_ED.norm(dim=-1).tolist() == pytest.approx([1.0, 1.0], abs=1e-5)


@pytest.mark.parametrize(
    ("models", "options", "told"),
    [
        (["only"], [], "only alone makes no mixture"),
        (["base", "one"], [], "2 experts chosen out of 1"),
        (["no.toml"], [], "cannot read the recipe no.toml"),
        (["no.toml"], ["--chosen", 2], "a recipe together with --chosen"),
        (["a", "b", "c"], ["--others", "ties"], "--others is 'ties'"),
    ],
)
def test_what_cannot_be_merged_is_an_error_with_a_hint(
    models: list[str],
    options: list[object],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("merge", *models, tmp_path / "out", *options) == 2
    streams = capsys.readouterr()
    assert told in streams.err
    assert "hint: " in streams.err
