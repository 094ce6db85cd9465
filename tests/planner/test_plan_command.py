import json
import subprocess
import sys
from pathlib import Path

import pytest

from expertly.cli.plan import command, human
from expertly.errors import InputError
from expertly.planner import known, plan

SYSTEMS = known.SYSTEMS
OLMOE = str(SYSTEMS / "OLMoE-1B-7B-0924.json")


def test_the_table_shows_counts_and_the_verdict(capsys) -> None:
    command(OLMOE, memory="4GB", bits=4, context=1024)
    out = capsys.readouterr().out
    for wanted in ("6,919,161,856", "1,282,017,280", "27.7 GB", "13.8 GB", "fits in 4.0 GB"):
        assert wanted in out
    assert "16 of 16 layers are mixtures" in out
    command(OLMOE, memory="3GB", bits=4)
    assert "does not fit in 3.0 GB" in capsys.readouterr().out


def test_without_options_there_is_no_verdict(capsys) -> None:
    command(OLMOE)
    out = capsys.readouterr().out
    assert "olmoe" in out
    assert "fit" not in out


def test_json_is_one_object_with_the_plan(capsys) -> None:
    command(OLMOE, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found == plan(OLMOE).to_dict()
    assert found["kv_bytes_per_token"] == 16 * 2 * 16 * 128 * 2


def test_a_name_in_brackets_is_printed_as_it_is(capsys, tmp_path: Path) -> None:
    folder = tmp_path / "[red]m"
    folder.mkdir()
    (folder / "config.json").write_bytes(Path(OLMOE).read_bytes())
    command(str(folder))
    assert "[red]m" in capsys.readouterr().out.replace("\n", "")


def test_errors_pass_through_for_the_command_line_to_print() -> None:
    with pytest.raises(InputError):
        command("nowhere")


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (46_702_792_704, "46.7 GB"),
        (10**15, "1000.0 TB"),
    ],
)
def test_bytes_are_written_with_decimal_units(count, expected) -> None:
    assert human(count) == expected


def test_planning_imports_no_torch() -> None:
    code = (
        "import sys; from expertly.cli.plan import command; command(sys.argv[1]);"
        "assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, OLMOE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
