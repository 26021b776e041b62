"""The part of the ELF format that linking a kernel needs: sections, symbols and relocations of a relocatable object file.

Every offset, size and index is checked before use. Format: System V ABI, chapters 4 and 5 (64-bit, little-endian).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cnngraph.errors import ArtifactError, printable

X86_64 = 62
"""ELF's number of the machine."""
R_64 = 1
"""The relocation R_X86_64_64: the address of symbol + addend as eight bytes. Numba's code for x86-64 has no other."""

WRITE, ALLOC, EXECUTE = 1, 2, 4
"""Section flags."""
NO_BITS, UNWIND = 8, 0x70000001
"""Section types: no bytes in the file; tables of exception handling on x86-64."""

_SYMBOL_TABLE, _RELA = 2, 4
_COMMON, _ABSOLUTE = 0xFFF2, 0xFFF1
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")


@dataclass(frozen=True)
class Section:
    """A section header; ``name`` is decoded, the other fields are ELF's."""

    name: str
    type: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    align: int

    @property
    def loaded(self) -> bool:
        """Whether its bytes belong in memory and kernels may need them (exceptions are never thrown)."""
        return bool(self.flags & ALLOC) and self.size > 0 and self.type != UNWIND and self.name != ".eh_frame"


@dataclass(frozen=True)
class Symbol:
    """A symbol: the index of its section, 0 if it is defined elsewhere."""

    name: str
    section: int
    value: int


@dataclass(frozen=True)
class Relocation:
    """A place in a section whose bytes depend on an address."""

    section: int
    offset: int
    type: int
    symbol: int
    addend: int


class ObjectFile:
    """A relocatable object file, read and checked.

    Attributes:
        machine: ELF's number of the instruction set.
        sections, symbols: in the file's order.
        relocations: of sections that are loaded.

    Raises:
        ArtifactError: no 64-bit little-endian ELF object file, or a damaged one.
    """

    def __init__(self, code: bytes) -> None:
        if code[:6] != b"\x7fELF\x02\x01":
            raise ArtifactError("the object code is no 64-bit little-endian ELF file")
        self.code = code
        try:
            self._read()
        except (struct.error, IndexError, ValueError, OverflowError) as error:
            raise ArtifactError(f"the object code is damaged: {error}") from None

    def content(self, section: Section) -> bytes:
        """The bytes of a section."""
        return bytes(section.size) if section.type == NO_BITS else self.code[section.offset : section.offset + section.size]

    def undefined(self) -> list[str]:
        """Names of the symbols that the code uses and does not define."""
        return [symbol.name for symbol in self.symbols[1:] if symbol.section == 0]

    def _read(self) -> None:
        code = self.code
        _, kind, self.machine, _, _, _, start, _, _, _, _, entry, count, names_at = _HEADER.unpack_from(code)
        if kind != 1 or entry != _SECTION.size:
            raise ValueError("no relocatable object")
        raw = [_SECTION.unpack_from(code, start + i * _SECTION.size) for i in range(count)]
        for i, fields in enumerate(raw):
            if fields[1] not in (0, NO_BITS) and fields[4] + fields[5] > len(code):
                raise ValueError(f"section {i} ends outside the file")
            if fields[2] & ALLOC and (fields[5] > 1 << 30 or fields[8] & (fields[8] - 1) or fields[8] > 4096):
                raise ValueError(f"section {i} has an impossible size or alignment")
        names = raw[names_at][4]
        self.sections = [Section(self._text(names + s[0]), s[1], s[2], s[4], s[5], s[6], s[7], max(s[8], 1)) for s in raw]
        self.symbols: list[Symbol] = []
        tables = [i for i, s in enumerate(self.sections) if s.type == _SYMBOL_TABLE]
        for i in tables:
            self._read_symbols(self.sections[i])
        self.relocations: list[Relocation] = []
        for section in self.sections:
            if section.type == _RELA and section.info < count and self.sections[section.info].loaded:
                if section.link not in tables or len(tables) != 1:
                    raise ValueError("relocations without their symbols")
                self._read_relocations(section)

    def _read_symbols(self, table: Section) -> None:
        names = self.sections[table.link].offset
        for at in range(table.offset, table.offset + table.size - _SYMBOL.size + 1, _SYMBOL.size):
            name, _, _, section, value, _ = _SYMBOL.unpack_from(self.code, at)
            if section < len(self.sections) and section and value > self.sections[section].size:
                raise ValueError("a symbol lies outside its section")
            self.symbols.append(Symbol(self._text(names + name), section, value))

    def _read_relocations(self, table: Section) -> None:
        size = self.sections[table.info].size
        for at in range(table.offset, table.offset + table.size - _RELOCATION.size + 1, _RELOCATION.size):
            offset, info, addend = _RELOCATION.unpack_from(self.code, at)
            symbol = info >> 32
            if offset + 8 > size or symbol >= len(self.symbols):
                raise ValueError("a relocation lies outside its section")
            section = self.symbols[symbol].section
            if section in (_COMMON, _ABSOLUTE) or (section and not self.sections[section].loaded):
                raise ValueError(f"a relocation refers to {printable(self.symbols[symbol].name)}, which is not in memory")
            self.relocations.append(Relocation(table.info, offset, info & 0xFFFFFFFF, symbol, addend))

    def _text(self, at: int) -> str:
        return self.code[at : self.code.index(b"\0", at)].decode("ascii")


def undefined_symbols(code: bytes) -> list[str]:
    """Names of the symbols that an ELF object uses and does not define.

    Raises:
        ArtifactError: no 64-bit little-endian ELF object, or a damaged one.
    """
    return ObjectFile(code).undefined()
