import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from saved_model import CHAT, save_small


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(tmp_path_factory.mktemp("models") / "small")


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small(tmp_path_factory.mktemp("models") / "chat", template=CHAT)


@pytest.fixture
def no_input(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Standard input as a service has it: the null device."""
    with open("/dev/null") as stream:
        monkeypatch.setattr("sys.stdin", stream)
        yield


@pytest.fixture
def pace() -> re.Pattern[str]:
    return re.compile(r"\d+ tokens?, the first after \d+\.\d\d s(, then \d+\.\d tokens/s)?")
