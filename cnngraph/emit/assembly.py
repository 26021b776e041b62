"""Object code of kernels as an assembly file, position-independent, so that a linker can put it into a shared library.

Numba's code for x86-64 loads every address with ``movabs $address, %register`` (ten bytes). Here each becomes
``lea place(%rip), %register`` or, for functions of the C library, a load from the linker's table, and a three-byte nop. All other
bytes are taken as they are, from a file that the assembly includes piecewise.
"""

from __future__ import annotations

from collections.abc import Sequence

from cnngraph.errors import InternalError, UsageError, printable
from cnngraph.runtime.elf import EXECUTE, R_64, WRITE, X86_64, ObjectFile, Relocation, Section
from cnngraph.runtime.loader import OFFERED
from cnngraph.runtime.program import Kernel

_REGISTERS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", *(f"r{n}" for n in range(8, 16)))
_NOP = ".byte 0x0f, 0x1f, 0x00"
_REX, _MOV = (0x48, 0x49), range(0xB8, 0xC0)


class Assembly:
    """Lines of assembly that define kernels, and the bytes they include."""

    def __init__(self, blob: str) -> None:
        self.blob = blob
        self.content = bytearray()
        self._lines: list[str] = []
        self._known: dict[bytes, str] = {}

    def add(self, kernel: Kernel, symbol: str) -> str:
        """Define ``kernel`` as the hidden function ``symbol``, unless equal code is there already; returns its symbol.

        Raises:
            UsageError: code for another machine, or of a form that cannot be made position-independent.
        """
        key = kernel.symbol.encode() + b"\0" + kernel.code
        if key in self._known:
            return self._known[key]
        file = ObjectFile(kernel.code)
        if file.machine != X86_64:
            raise UsageError("libraries can be made of code for x86-64 only")
        prefix = f".L{symbol}_"
        for index, section in enumerate(file.sections):
            if section.loaded:
                relocations = sorted((r for r in file.relocations if r.section == index), key=lambda r: r.offset)
                self._section(file, section, f"{prefix}{index}", relocations, prefix)
        entry = [s for s in file.symbols if s.name == kernel.symbol and s.section and file.sections[s.section].loaded]
        if not entry:
            raise InternalError(f"the object code of kernel {kernel.name} lacks its entry point")
        place = f"{prefix}{entry[0].section} + {entry[0].value}"
        self._lines += [f".globl {symbol}", f".hidden {symbol}", f".type {symbol}, @function", f".set {symbol}, {place}"]
        self._known[key] = symbol
        return symbol

    def text(self) -> str:
        """The whole file."""
        return "\n".join([*self._lines, '.section .note.GNU-stack,"",@progbits', ""])

    def _section(self, file: ObjectFile, section: Section, label: str, relocations: Sequence[Relocation], prefix: str) -> None:
        if section.flags & WRITE:
            raise UsageError("a kernel keeps state in memory of its own, which a library cannot have")
        executable = bool(section.flags & EXECUTE)
        name = ".text" if executable else '.section .data.rel.ro,"aw"' if relocations else ".section .rodata"
        self._lines += [name, f".balign {max(section.align, 64)}", f"{label}:"]
        content, at = file.content(section), 0
        for r in relocations:
            if r.type != R_64:
                raise UsageError(f"a kernel's code has a relocation of type {r.type}, which libraries cannot have")
            symbol = file.symbols[r.symbol]
            if symbol.section:
                target = f"{prefix}{symbol.section} + {symbol.value + r.addend}"
            elif symbol.name in OFFERED and r.addend == 0:
                target = symbol.name
            else:
                raise UsageError(f"a kernel calls {printable(symbol.name)}, which is not in the C library")
            if not executable:
                self._include(content[at : r.offset])
                self._lines.append(f".quad {target}")
                at = r.offset + 8
                continue
            rex, move = content[r.offset - 2 : r.offset] if r.offset - 2 >= at else (0, 0)
            if rex not in _REX or move not in _MOV:
                raise UsageError("a kernel's code uses an address in a way that libraries cannot have")
            register = _REGISTERS[8 * (rex & 1) + move - 0xB8]
            self._include(content[at : r.offset - 2])
            self._lines.append(f"leaq {target}(%rip), %{register}" if symbol.section else f"movq {target}@GOTPCREL(%rip), %{register}")
            self._lines.append(_NOP)
            at = r.offset + 8
        self._include(content[at:])

    def _include(self, piece: bytes) -> None:
        if piece:
            self._lines.append(f'.incbin "{self.blob}", {len(self.content)}, {len(piece)}')
            self.content += piece
