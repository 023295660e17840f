"""Python modules over the C ABI: what cffi reads, and the C source that it writes."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import BuildError

INSTALLED = "pytreellama/native"
"""Where the compiled modules are in an installed package."""
STAGED = f"src/{INSTALLED}"
"""Where they are in a checkout, relative to its root."""


@dataclass(frozen=True)
class Module:
    """A compiled module; all of them are staged beside each other, and share the libraries.

    Attributes:
        name: of its file and of its target in CMake.
        declarations: folder of what cffi reads, relative to the root of the checkout.
        headers: what the compiler checks the declarations against.
        base: a module whose types this one shares; it is loaded first.
    """

    name: str
    declarations: str
    headers: tuple[str, ...]
    base: Module | None = None

    @property
    def qualified_name(self) -> str:
        return f"{INSTALLED.replace('/', '.')}.{self.name}"

    @property
    def preamble(self) -> str:
        return "".join(f'#include "{header}"\n' for header in self.headers)

    def sources(self, root: Path) -> list[Path]:
        """What cffi reads, in its order."""
        return sorted((root / self.declarations).glob("*.h"))


NATIVE = Module("_native", f"{STAGED}/declarations", ("llama.h", "treellama.h"))
TESTING = Module(
    "_native_testing",
    "src/pytreellama/testing/declarations",
    (*NATIVE.headers, "treellama-testing.h"),
    base=NATIVE,
)
"""Instruments for tests and benches, which a user's package does not have."""


def emit_c(module: Module, root: Path, target: Path) -> Path:
    """Let cffi write the C source of a module from its declarations, to ``target``."""
    ffi = _declared(module, root)
    with contextlib.redirect_stdout(None):  # cffi tells the file's name
        ffi.emit_c_code(str(target))
    return target


def _declared(module: Module, root: Path) -> Any:
    import cffi

    ffi = cffi.FFI()
    if module.base is not None:
        ffi.include(_declared(module.base, root))
    for path in module.sources(root):
        try:
            ffi.cdef(path.read_text(encoding="utf-8"))
        except (cffi.CDefError, cffi.FFIError) as error:
            raise BuildError(f"cffi cannot read {path}: {error}", "mend the declaration") from None
    ffi.set_source(module.qualified_name, module.preamble)
    return ffi
