"""A disk that goes wrong as it is told to, around one that works."""

import _thread
import ctypes
import errno
import threading
import time
from pathlib import Path

from expertly.errors import CheckpointError
from expertly.store import Disk

# the answer must come out right all the same
PASSING = ("error", "short", "nothing", "flip", "slow", "dies", "killed")
# one clear error, and no token
LASTING = ("errors", "shorts", "flips", "stall", "changed")
# Ctrl-C
INTERRUPT = "interrupt"
FAULTS = (*PASSING, *LASTING, INTERRUPT)


class FaultyDisk:
    """`arm` a fault: the read after `after` more goes wrong, with a lasting one every later read at
    that place too, until `heal`."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._lock = threading.Lock()
        self._go_on = threading.Event()
        self._fault: str | None = None
        self._after = 0
        self._place: tuple[Path, int] | None = None
        self.happened = False
        self.is_direct = disk.is_direct

    def arm(self, fault: str, after: int) -> None:
        self._go_on.clear()
        self._fault, self._after, self._place, self.happened = fault, after, None, False

    def heal(self) -> None:
        self._fault = None
        self._go_on.set()

    def close(self) -> None:
        self._disk.close()

    def read_at(self, file: Path, target: memoryview, offset: int) -> int:
        fault = self._due(file, offset)
        if fault is None:
            return self._disk.read_at(file, target, offset)
        return self._fail(fault, file, target, offset)

    def _due(self, file: Path, offset: int) -> str | None:
        with self._lock:
            if self._place is not None:
                is_again = self._place == (file, offset) and self._fault in LASTING
                return self._fault if is_again else None
            self._after -= 1
            if self._fault is None or self._after >= 0:
                return None
            self._place, self.happened = (file, offset), True
            return self._fault

    def _fail(self, fault: str, file: Path, target: memoryview, offset: int) -> int:
        if fault in ("error", "errors"):
            raise OSError(errno.EIO, "Input/output error")
        if fault == "changed":
            raise CheckpointError(f"{file}: the file changed", hint="load the model again")
        if fault == "dies":
            raise SystemExit
        if fault == "stall":
            self._go_on.wait()
        if fault == "interrupt":
            _thread.interrupt_main()
        if fault == "killed":
            me = ctypes.c_ulong(threading.get_ident())
            ctypes.pythonapi.PyThreadState_SetAsyncExc(me, ctypes.py_object(SystemExit))
        if fault in ("slow", "interrupt"):
            time.sleep(0.01)
        count = self._disk.read_at(file, target, offset)
        if fault in ("flip", "flips"):
            target[count // 2] ^= 1
        return {"short": count // 2, "shorts": count // 2, "nothing": 0}.get(fault, count)
