"""Every machine operation that generated kernels use, as data: name, PTX text, operands.

The table has two readers: :mod:`cnngraph_cuda.intrinsics` makes Numba intrinsics of it, :mod:`cnngraph_cuda.emulate`
gives every name its meaning on NumPy arrays. A test compares the two.

Letters of operands: ``f`` float32, ``r`` 32-bit integer, ``l`` 64-bit integer or the address of a tensor map, ``p`` a pointer and an
element offset (two arguments of the function, one 64-bit address in PTX). ``$0..`` in the text are the results, then the operands.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Primitive:
    """One operation.

    Attributes:
        text: PTX.
        outs: letters of the results; several results are a tuple.
        ins: letters of the operands.
        tied: letters of operands that are also results; they come first in the argument list and in the results.
        volatile: not to be removed, duplicated or moved across other volatile ones.
        memory: reads or writes memory that other operations see.
        warp: all 32 lanes of a warp must execute it together.
        packed: the tied operands are one tuple (the accumulators of a warpgroup, too many to name one by one).
    """

    text: str
    outs: str = ""
    ins: str = ""
    tied: str = ""
    volatile: bool = True
    memory: bool = False
    warp: bool = False
    packed: bool = False

    @property
    def results(self) -> int:
        """Number of results."""
        return len(self.tied) + len(self.outs)

    @property
    def operands(self) -> int:
        """Number of arguments of the function."""
        return (1 if self.packed else len(self.tied)) + len(self.ins) + self.ins.count("p")


def _unpack(kind: str, words: int) -> str:
    """Words t0.. of two 16-bit floats each into results $0.. ."""
    text = ""
    for i in range(words):
        text += f"mov.b32 {{h{2 * i}, h{2 * i + 1}}}, t{i}; "
        for e in range(2):
            if kind == "f16":
                text += f"cvt.f32.f16 ${2 * i + e}, h{2 * i + e}; "
            else:
                text += f"mov.b32 ${2 * i + e}, {{z, h{2 * i + e}}}; "
    return text


INTEGERS = {"u8": "u8", "i8": "s8", "u16": "u16", "i16": "s16", "u32": "u32", "i32": "s32", "i64": "b64", "u64": "b64"}
"""PTX names of the integer types in memory; in registers they are 64 bits wide."""


def _load(kind: str, count: int) -> Primitive:
    """``count`` numbers of type ``kind`` from global memory, as float32."""
    if kind == "f32":
        text = ""
        for i in range(0, count, 4):
            size = min(4, count - i)
            names = ", ".join(f"${i + e}" for e in range(size))
            vector = {1: "", 2: ".v2", 4: ".v4"}[size]
            text += f"ld.global{vector}.f32 " + (f"{{{names}}}" if size > 1 else names) + f", [${count}+{4 * i}]; "
        return Primitive(text, "f" * count, "p", memory=True)
    if count == 1:
        convert = "cvt.f32.f16 $0, h;" if kind == "f16" else "mov.b32 $0, {z, h};"
        zero = "" if kind == "f16" else "mov.b16 z, 0; "
        return Primitive(f"{{ .reg .b16 h, z; {zero}ld.global.b16 h, [$1]; {convert} }}", "f", "p", memory=True)
    words = count // 2
    names = ", ".join(f"t{i}" for i in range(words))
    vector = {1: "", 2: ".v2", 4: ".v4"}[words]
    target = f"{{{names}}}" if words > 1 else names
    zero = "" if kind == "f16" else "mov.b16 z, 0; "
    halves = ", ".join(f"h{i}" for i in range(count))
    text = f"{{ .reg .b32 {names}; .reg .b16 {halves}, z; {zero}ld.global{vector}.b32 {target}, [${count}]; {_unpack(kind, words)}}}"
    return Primitive(text, "f" * count, "p", memory=True)


def _store(kind: str, count: int) -> Primitive:
    """``count`` float32 numbers to global memory as type ``kind``, rounded to nearest even."""
    if kind == "f32":
        text = ""
        for i in range(0, count, 4):
            size = min(4, count - i)
            names = ", ".join(f"${1 + i + e}" for e in range(size))
            vector = {1: "", 2: ".v2", 4: ".v4"}[size]
            text += f"st.global{vector}.f32 [$0+{4 * i}], " + (f"{{{names}}}" if size > 1 else names) + "; "
        return Primitive(text, "", "p" + "f" * count, memory=True)
    if count == 1:
        return Primitive(f"{{ .reg .b16 h; cvt.rn.{kind}.f32 h, $1; st.global.b16 [$0], h; }}", "", "pf", memory=True)
    words = count // 2
    names = ", ".join(f"t{i}" for i in range(words))
    vector = {1: "", 2: ".v2", 4: ".v4"}[words]
    source = f"{{{names}}}" if words > 1 else names
    pack = " ".join(f"cvt.rn.{kind}x2.f32 t{i}, ${2 * i + 2}, ${2 * i + 1};" for i in range(words))
    return Primitive(f"{{ .reg .b32 {names}; {pack} st.global{vector}.b32 [$0], {source}; }}", "", "p" + "f" * count, memory=True)


def _load_four_if() -> Primitive:
    text = "{ .reg .pred p; .reg .b32 m; .reg .b64 a, s; mov.b64 a, $4; cvt.s64.s32 s, $5; "
    for i in range(4):
        text += f"and.b32 m, $6, {1 << i}; setp.ne.s32 p, m, 0; mov.f32 ${i}, 0f00000000; @p ld.global.f32 ${i}, [a]; "
        text += "add.s64 a, a, s; " if i < 3 else "}"
    return Primitive(text, "ffff", "prr", memory=True)


_MMA = "{$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$0, $1, $2, $3};"


def _mma(shape: str, kind: str) -> Primitive:
    return Primitive(f"mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32 {_MMA}", "", "rrrrrr", "ffff", warp=True)


def _wgmma(kind: str, columns: int) -> Primitive:
    """``D += A B`` of a warpgroup over 128 bytes of the summed axis: D 64 x ``columns``, both operands K-major in swizzled shared memory.

    The operands are the low words of both matrix descriptors and their common high word. In tf32 it is one step of 32 bytes, and A
    comes from registers (rounded there, which shared memory is not).
    """
    n = columns // 2
    sums = "{" + ", ".join(f"${i}" for i in range(n)) + "}"
    head = "{ .reg .pred p; .reg .b64 a, b; setp.ne.b32 p, 1, 0; "
    if kind == "tf32":
        fragment = "{" + ", ".join(f"${n + i}" for i in range(4)) + "}"
        text = f"mov.b64 b, {{${n + 4}, ${n + 5}}}; "
        text += f"wgmma.mma_async.sync.aligned.m64n{columns}k8.f32.tf32.tf32 {sums}, {fragment}, b, p, 1, 1; }}"
        return Primitive(head + text, "", "rrrrrr", "f" * n, memory=True, warp=True, packed=True)
    text = f"mov.b64 a, {{${n}, ${n + 2}}}; mov.b64 b, {{${n + 1}, ${n + 2}}}; "
    one = f"wgmma.mma_async.sync.aligned.m64n{columns}k16.f32.{kind}.{kind} {sums}, a, b, p, 1, 1, 0, 0; "
    return Primitive(
        head + text + "add.s64 a, a, 2; add.s64 b, b, 2; ".join([one] * 4) + "}", "", "rrr", "f" * n, memory=True, warp=True, packed=True
    )


PRIMITIVES: dict[str, Primitive] = {
    "thread": Primitive("mov.u32 $0, %tid.x;", "r", volatile=False),
    "block_x": Primitive("mov.u32 $0, %ctaid.x;", "r", volatile=False),
    "block_y": Primitive("mov.u32 $0, %ctaid.y;", "r", volatile=False),
    "block_z": Primitive("mov.u32 $0, %ctaid.z;", "r", volatile=False),
    "grid_x": Primitive("mov.u32 $0, %nctaid.x;", "r", volatile=False),
    "grid_y": Primitive("mov.u32 $0, %nctaid.y;", "r", volatile=False),
    "grid_z": Primitive("mov.u32 $0, %nctaid.z;", "r", volatile=False),
    # the operand; what follows from it is computed again, instead of being kept in registers since it was computed first
    "opaque": Primitive("mov.b32 $0, $1;", "r", "r"),
    # tensor cores: D += A B; A row-major 16xk, B column-major kx8
    "mma_f16": _mma("m16n8k16", "f16"),
    "mma_bf16": _mma("m16n8k16", "bf16"),
    "mma_tf32": _mma("m16n8k8", "tf32"),
    "round_tf32": Primitive("cvt.rna.tf32.f32 $0, $1;", "r", "r", volatile=False),
    "ldmatrix": Primitive("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {$0, $1, $2, $3}, [$4];", "rrrr", "r", memory=True, warp=True),
    "ldmatrix_transposed": Primitive(
        "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {$0, $1, $2, $3}, [$4];", "rrrr", "r", memory=True, warp=True
    ),
    # asynchronous copies of 16 bytes from global to shared memory; the last operand counts the bytes read, the rest becomes zero
    "cp_async16": Primitive("cp.async.cg.shared.global [$0], [$1], 16, $2;", "", "rpr", memory=True),
    "cp_commit": Primitive("cp.async.commit_group;", memory=True),
    "cp_wait0": Primitive("cp.async.wait_group 0;", memory=True),
    "cp_wait1": Primitive("cp.async.wait_group 1;", memory=True),
    "cp_wait2": Primitive("cp.async.wait_group 2;", memory=True),
    "cp_wait3": Primitive("cp.async.wait_group 3;", memory=True),
    # tensor cores of a warpgroup (sm_90a): asynchronous from the fence to the wait that takes the sums
    "wgmma_fence": Primitive("wgmma.fence.sync.aligned;", memory=True, warp=True),
    "wgmma_commit": Primitive("wgmma.commit_group.sync.aligned;", memory=True, warp=True),
    # what this thread wrote to shared memory becomes visible to wgmma
    "proxy_fence": Primitive("fence.proxy.async.shared::cta;", memory=True),
    # barriers that count arrivals and bytes (sm_90): a phase is over when both have come; waiting is for the phase of a parity
    "mbarrier_init": Primitive("mbarrier.init.shared::cta.b64 [$0], $1;", "", "rr", memory=True),
    "mbarrier_fence": Primitive("fence.mbarrier_init.release.cluster;", memory=True),
    "mbarrier_expect": Primitive("mbarrier.arrive.expect_tx.shared::cta.b64 _, [$0], $1;", "", "rr", memory=True),
    "mbarrier_wait": Primitive(
        "{ .reg .pred p; wait: mbarrier.try_wait.parity.shared::cta.b64 p, [$0], $1; @!p bra wait; }", "", "rr", memory=True
    ),
    # the tensor memory accelerator: a box of the map's array at these coordinates, innermost first, and the barrier that counts its bytes
    "tma_load": Primitive(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [$0], [$1, {$2, $3}], [$4];",
        "",
        "rlrrr",
        memory=True,
    ),
    # pixels of an im2col map: channel, column, row and image of the first place, the barrier, columns and rows beyond
    "tma_im2col": Primitive(
        "{ .reg .b16 x, y; cvt.u16.u32 x, $7; cvt.u16.u32 y, $8; cp.async.bulk.tensor.4d.shared::cluster.global.im2col"
        ".mbarrier::complete_tx::bytes [$0], [$1, {$2, $3, $4, $5}], [$6], {x, y}; }",
        "",
        "rlrrrrrrr",
        memory=True,
    ),
    # shared memory by byte address
    "lds1": Primitive("ld.shared.f32 $0, [$1];", "f", "r", memory=True),
    "lds4": Primitive("ld.shared.v4.f32 {$0, $1, $2, $3}, [$4];", "ffff", "r", memory=True),
    "sts1": Primitive("st.shared.f32 [$0], $1;", "", "rf", memory=True),
    "sts2": Primitive("st.shared.v2.f32 [$0], {$1, $2};", "", "rff", memory=True),
    "sts4": Primitive("st.shared.v4.f32 [$0], {$1, $2, $3, $4};", "", "rffff", memory=True),
    "shuffle_xor": Primitive("shfl.sync.bfly.b32 $0, $1, $2, 31, 0xffffffff;", "f", "fr", warp=True),
    # arithmetic; dot4 adds four products to a sum, one after the other
    "dot4": Primitive(
        "fma.rn.f32 $0, $1, $5, $0; fma.rn.f32 $0, $2, $6, $0; fma.rn.f32 $0, $3, $7, $0; fma.rn.f32 $0, $4, $8, $0;",
        "",
        "ffffffff",
        "f",
        volatile=False,
    ),
    # four sums, a factor, and what it is multiplied with for each
    "fma4": Primitive(
        "fma.rn.f32 $0, $4, $5, $0; fma.rn.f32 $1, $4, $6, $1; fma.rn.f32 $2, $4, $7, $2; fma.rn.f32 $3, $4, $8, $3;",
        "",
        "fffff",
        "ffff",
        volatile=False,
    ),
    "fma": Primitive("fma.rn.f32 $0, $1, $2, $3;", "f", "fff", volatile=False),
    "maximum": Primitive("max.NaN.f32 $0, $1, $2;", "f", "ff", volatile=False),
    "minimum": Primitive("min.NaN.f32 $0, $1, $2;", "f", "ff", volatile=False),
    "floor": Primitive("cvt.rmi.f32.f32 $0, $1;", "f", "f", volatile=False),
    "ceil": Primitive("cvt.rpi.f32.f32 $0, $1;", "f", "f", volatile=False),
    "round_even": Primitive("cvt.rni.f32.f32 $0, $1;", "f", "f", volatile=False),
    # four numbers from global memory, so many bytes apart; 0, without a read, where the bit of the last operand is 0
    "load_four_if": _load_four_if(),
    "load_int": Primitive("ld.global.b32 $0, [$1];", "r", "p", memory=True),
    "store_int": Primitive("st.global.b32 [$0], $1;", "", "pr", memory=True),
    # counters in global memory, for blocks that share one result
    "fence": Primitive("fence.acq_rel.gpu;", memory=True),
    "ldcg4": Primitive("ld.global.cg.v4.f32 {$0, $1, $2, $3}, [$4];", "ffff", "p", memory=True),
    "count_up": Primitive("atom.global.inc.u32 $0, [$1], $2;", "r", "pr", memory=True),
}
for _kind in ("f32", "f16", "bf16"):
    for _count in (1, 2, 4, 8):
        PRIMITIVES[f"ld{_count}_{_kind}"] = _load(_kind, _count)
        PRIMITIVES[f"st{_count}_{_kind}"] = _store(_kind, _count)
for _kind, _name in INTEGERS.items():
    PRIMITIVES[f"ld1_{_kind}"] = Primitive(f"ld.global.{_name} $0, [$1];", "l", "p", memory=True)
    PRIMITIVES[f"st1_{_kind}"] = Primitive(f"st.global.{_name} [$0], $1;", "", "pl", memory=True)


def _long(name: str, operands: int = 2) -> Primitive:
    arguments = ", ".join(f"${i}" for i in range(operands + 1))
    return Primitive(f"{name} {arguments};", "l", "l" * operands, volatile=False)


def _quotient(name: str, kind: str) -> Primitive:
    """What divides by 0 gives 0."""
    text = f"{{ .reg .pred p; .reg .b64 t; setp.eq.s64 p, $2, 0; selp.b64 t, 1, $2, p; {name}.{kind} $0, $1, t; @p mov.b64 $0, 0; }}"
    return Primitive(text, "l", "ll", volatile=False)


def _shift(name: str, kind: str) -> Primitive:
    """A count beyond 64 shifts everything out."""
    text = f"{{ .reg .b64 t; .reg .b32 n; min.u64 t, $2, 64; cvt.u32.u64 n, t; {name}.{kind} $0, $1, n; }}"
    return Primitive(text, "l", "ll", volatile=False)


PRIMITIVES |= {
    "long_add": _long("add.s64"), "long_sub": _long("sub.s64"), "long_mul": _long("mul.lo.s64"), "long_min": _long("min.s64"),
    "long_max": _long("max.s64"), "long_neg": _long("neg.s64", 1), "long_abs": _long("abs.s64", 1),
    "long_relu": Primitive("max.s64 $0, $1, 0;", "l", "l", volatile=False), "long_and": _long("and.b64"), "long_or": _long("or.b64"),
    "long_xor": _long("xor.b64"), "long_not": _long("not.b64", 1), "long_div": _quotient("div", "s64"),
    "long_fmod": _quotient("rem", "s64"),
    # the remainder has the sign of the divisor
    "long_mod": Primitive(
        "{ .reg .pred p, q; .reg .b64 t; setp.eq.s64 p, $2, 0; selp.b64 t, 1, $2, p; rem.s64 $0, $1, t; @p mov.b64 $0, 0; "
        "setp.ne.s64 p, $0, 0; xor.b64 t, $0, $2; setp.lt.and.s64 q, t, 0, p; @q add.s64 $0, $0, $2; }",
        "l", "ll", volatile=False,
    ),
    "long_shift_left": _shift("shl", "b64"), "long_shift_right": _shift("shr", "s64"),
    # the same of uint64, where it differs
    "ulong_min": _long("min.u64"), "ulong_max": _long("max.u64"), "ulong_div": _quotient("div", "u64"),
    "ulong_fmod": _quotient("rem", "u64"), "ulong_mod": _quotient("rem", "u64"), "ulong_shift_right": _shift("shr", "u64"),
    "ufloat_of_long": Primitive("cvt.rn.f32.u64 $0, $1;", "f", "l", volatile=False),
    "order_unsigned": Primitive("xor.b64 $0, $1, 0x8000000000000000;", "l", "l", volatile=False),
    "float_of_long": Primitive("cvt.rn.f32.s64 $0, $1;", "f", "l", volatile=False),
    # towards zero; what is out of range becomes the nearest int64, NaN 0
    "truncate": Primitive("cvt.rzi.s64.f32 $0, $1;", "l", "f", volatile=False),
}  # fmt: skip
for _columns in (64, 128, 256):
    _sums = "f" * (_columns // 2)
    PRIMITIVES[f"wgmma_zeros_{_columns}"] = Primitive(
        " ".join(f"mov.f32 ${i}, 0f00000000;" for i in range(len(_sums))), _sums, volatile=False
    )
    PRIMITIVES[f"wgmma_wait_{_columns}"] = Primitive("wgmma.wait_group.sync.aligned 0;", tied=_sums, memory=True, warp=True, packed=True)
    for _kind in ("f16", "bf16", "tf32"):
        PRIMITIVES[f"wgmma_{_kind}_{_columns}"] = _wgmma(_kind, _columns)


def _older() -> dict[str, Primitive]:
    """Primitives that sm_75 has otherwise: copies that are over at once, products of 8 steps, NaN and rounding in several steps."""
    sums = "{$0, $1, $2, $3}"
    copy = "{ .reg .pred p; .reg .b32 t0, t1, t2, t3, n; mov.b32 t0, 0; mov.b32 t1, 0; mov.b32 t2, 0; mov.b32 t3, 0; "
    copy += "setp.gt.s32 p, $2, 0; @p ld.global.v4.b32 {t0, t1, t2, t3}, [$1]; "
    for i in range(4):  # bytes beyond the count become zero; a shift by 32 leaves nothing
        copy += f"sub.s32 n, $2, {4 * i}; min.s32 n, n, 4; max.s32 n, n, 0; shl.b32 n, n, 3; "
        copy += f"shl.b32 n, -1, n; not.b32 n, n; and.b32 t{i}, t{i}, n; "
    out = {
        "mma_f16": Primitive(
            f"mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {sums}, {{$4, $5}}, {{$8}}, {sums}; "
            f"mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {sums}, {{$6, $7}}, {{$9}}, {sums};",
            "", "rrrrrr", "ffff", warp=True,
        ),
        "cp_async16": Primitive(copy + "st.shared.v4.b32 [$0], {t0, t1, t2, t3}; }", "", "rpr", memory=True),
        "cp_commit": Primitive("", memory=True),
    }  # fmt: skip
    for pending in range(4):
        out[f"cp_wait{pending}"] = Primitive("", memory=True)
    for name, short in (("maximum", "max"), ("minimum", "min")):
        text = f"{{ .reg .pred p; {short}.f32 $0, $1, $2; setp.nan.f32 p, $1, $2; @p add.f32 $0, $1, $2; }}"
        out[name] = Primitive(text, "f", "ff", volatile=False)
    for count in (2, 4, 8):
        words = count // 2
        names = ", ".join(f"t{i}" for i in range(words))
        pack = "".join(f"cvt.rn.f16.f32 h, ${2 * i + 1}; cvt.rn.f16.f32 g, ${2 * i + 2}; mov.b32 t{i}, {{h, g}}; " for i in range(words))
        vector, source = {1: ("", names), 2: (".v2", f"{{{names}}}"), 4: (".v4", f"{{{names}}}")}[words]
        text = f"{{ .reg .b32 {names}; .reg .b16 h, g; {pack}st.global{vector}.b32 [$0], {source}; }}"
        out[f"st{count}_f16"] = Primitive(text, "", "p" + "f" * count, memory=True)
    return out


OLDER = _older()


def primitives_of(arch: str) -> dict[str, Primitive]:
    """The primitives of an architecture."""
    return {**PRIMITIVES, **OLDER} if arch == "sm_75" else PRIMITIVES
