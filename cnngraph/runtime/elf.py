"""The little of the ELF format that loading code safely needs: which functions an object file expects from outside.

LLVM's loader, on meeting one symbol that it cannot resolve, silently leaves *every* external call at address 0. So the
names are looked up before. Format: System V ABI, chapter 4 (64-bit, little-endian).
"""

from __future__ import annotations

import struct

from cnngraph.errors import ArtifactError

_SYMBOL_TABLE = 2
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")


def undefined_symbols(code: bytes) -> list[str]:
    """Names of the symbols that an ELF object uses and does not define.

    Raises:
        ArtifactError: no 64-bit little-endian ELF object, or a damaged one.
    """
    if code[:6] != b"\x7fELF\x02\x01":
        raise ArtifactError("the object code is no 64-bit little-endian ELF file")
    try:
        (start,) = struct.unpack_from("<Q", code, 40)
        (count,) = struct.unpack_from("<H", code, 60)
        sections = [_SECTION.unpack_from(code, start + i * _SECTION.size) for i in range(count)]
        found = []
        for section in sections:
            if section[1] != _SYMBOL_TABLE:
                continue
            names = sections[section[6]][4]
            for at in range(section[4] + _SYMBOL.size, section[4] + section[5], _SYMBOL.size):  # the first is the null symbol
                name, _, _, defined_in, _, _ = _SYMBOL.unpack_from(code, at)
                if defined_in == 0:
                    found.append(code[names + name : code.index(b"\0", names + name)].decode("ascii"))
    except (struct.error, IndexError, ValueError) as error:
        raise ArtifactError(f"the object code is damaged: {error}") from None
    return found
