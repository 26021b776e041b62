/* Intel's tile unit (AMX) for machines without it, for tests: preloaded, it emulates the instructions that the CPU refuses.
 *
 * The CPU raises SIGILL on every tile instruction; the handler decodes it where it stands, does what Intel's Software Developer's Manual
 * (volume 2: LDTILECFG, STTILECFG, TILERELEASE, TILEZERO, TILELOADD, TILELOADDT1, TILESTORED, TDPBF16PS, TDPBUSD) says with tiles of the
 * thread, and goes on behind it. What the manual makes a fault ends the process with a message. Any other SIGILL is the previous handler's.
 *
 * TILE_UNIT=granted or refused says what the process is answered that asks Linux for the tiles (arch_prctl through syscall()); the unit
 * is listed in /proc/cpuinfo, and, in code that includes cpuid_with_tiles.h, by CPUID, in both cases. Without TILE_UNIT nothing happens.
 */
#define _GNU_SOURCE
#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <immintrin.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

enum { TILES = 8, ROWS = 16, ROW_BYTES = 64, CONFIG_BYTES = 64 };
enum { CONFIGURE, STORE_CONFIG, RELEASE, ZERO, LOAD, LOAD_T1, STORE, DOT_BF16, DOT_BYTES, COUNTED };
enum { ASK_PERMISSION = 0x1023, TILE_DATA = 18 };
enum { NO_PREFIX, PREFIX_66, PREFIX_F3, PREFIX_F2 };

/* What tile_count() can be asked for, by its place; the first COUNTED are instructions. */
EXPORT const char tile_kinds[] =
    "configure store_config release zero load load_t1 store dot_bf16 dot_bytes "
    "misaligned on_stack configured_threads requests";
enum { MISALIGNED = COUNTED, ON_STACK, CONFIGURED_THREADS, REQUESTS, NUMBERS };

static int64_t numbers[NUMBERS];
static int listed, grants, granted;
static struct sigaction previous;

static __thread struct {
    int configured, palette, start_row;
    int rows[TILES], row_bytes[TILES];
    uint8_t *stack, *stack_end;
    __attribute__((aligned(64))) uint8_t data[TILES][ROWS][ROW_BYTES];
} unit __attribute__((tls_model("initial-exec")));

typedef struct {
    int prefix, opcode, mod, reg, rm, other; /* other: VEX.vvvv */
    int has_sib, length;
    uint8_t *base;
    int64_t stride; /* the scaled index register */
} instruction;

static const uint8_t *at; /* of the instruction that faults, for the message */

static void add(int number, int64_t value) { __atomic_fetch_add(numbers + number, value, __ATOMIC_RELAXED); }

__attribute__((noreturn)) static void fault(const char *why) {
    char text[256];
    int length = snprintf(text, sizeof text, "tile unit: %s, at %p:", why, (const void *)at);
    for (int i = 0; i < 12; i++) length += snprintf(text + length, sizeof text - length, " %02x", at[i]);
    text[length++] = '\n';
    if (write(2, text, length) < 0) _exit(1);
    abort();
}

/* VEX.128.0F38.W0 with opcode 49, 4B, 5C or 5E; whether it is one. */
static int decode(const uint8_t *p, const greg_t *r, instruction *in) {
    static const int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                  REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    if (p[0] != 0xC4 || (p[1] & 31) != 2 || p[2] & 0x84) return 0;
    int r_bit = ~p[1] >> 7 & 1, x_bit = ~p[1] >> 6 & 1, b_bit = ~p[1] >> 5 & 1;
    in->prefix = p[2] & 3;
    in->other = ~p[2] >> 3 & 15;
    in->opcode = p[3];
    in->mod = p[4] >> 6;
    in->reg = (p[4] >> 3 & 7) | r_bit << 3;
    in->rm = (p[4] & 7) | b_bit << 3;
    in->has_sib = in->mod != 3 && (p[4] & 7) == 4;
    in->length = 5;
    in->stride = 0;
    if (in->opcode != 0x49 && in->opcode != 0x4B && in->opcode != 0x5C && in->opcode != 0x5E) return 0;
    if (in->mod == 3) return 1;
    uint64_t base = 0;
    int32_t displacement = 0;
    int wide = in->mod == 2, from_next = 0;
    if (in->has_sib) {
        int scale = p[5] >> 6, index = (p[5] >> 3 & 7) | x_bit << 3;
        if (index != 4) in->stride = (int64_t)((uint64_t)r[order[index]] << scale);
        if ((p[5] & 7) == 5 && in->mod == 0) wide = 1;
        else base = (uint64_t)r[order[(p[5] & 7) | b_bit << 3]];
        in->length = 6;
    } else if ((p[4] & 7) == 5 && in->mod == 0) {
        wide = from_next = 1;
    } else {
        base = (uint64_t)r[order[in->rm]];
    }
    if (wide) memcpy(&displacement, p + in->length, 4);
    else if (in->mod == 1) displacement = (int8_t)p[in->length];
    in->length += wide ? 4 : in->mod == 1 ? 1 : 0;
    if (from_next) base = (uint64_t)(uintptr_t)p + in->length;
    in->base = (uint8_t *)(uintptr_t)(base + (uint64_t)(int64_t)displacement);
    return 1;
}

static void forget(void) {
    memset(unit.rows, 0, sizeof unit.rows);
    memset(unit.row_bytes, 0, sizeof unit.row_bytes);
    memset(unit.data, 0, sizeof unit.data);
    add(CONFIGURED_THREADS, -unit.configured);
    unit.configured = unit.palette = unit.start_row = 0;
}

static void configure(const uint8_t *config) {
    int rows[TILES], row_bytes[TILES];
    if (config[0] > 1) fault("no such palette");
    if (config[0] == 0) {
        forget();
        return;
    }
    for (int i = 2; i < 16; i++)
        if (config[i]) fault("reserved bytes of a configuration are not zero");
    for (int i = 0; i < 16; i++) {
        int width = config[16 + 2 * i] | config[17 + 2 * i] << 8, count = config[48 + i];
        if (i >= TILES && (width || count)) fault("a configuration of more tiles than there are");
        if (width > ROW_BYTES || count > ROWS || !width != !count) fault("a configuration of an impossible tile");
        if (i < TILES) rows[i] = count, row_bytes[i] = width;
    }
    forget();
    memcpy(unit.rows, rows, sizeof rows);
    memcpy(unit.row_bytes, row_bytes, sizeof row_bytes);
    unit.palette = config[0];
    unit.start_row = config[1];
    unit.configured = 1;
    add(CONFIGURED_THREADS, 1);
}

static void store_configuration(uint8_t *to) {
    memset(to, 0, CONFIG_BYTES);
    to[0] = (uint8_t)unit.palette;
    to[1] = (uint8_t)unit.start_row;
    for (int i = 0; i < TILES; i++) {
        to[16 + 2 * i] = (uint8_t)unit.row_bytes[i];
        to[48 + i] = (uint8_t)unit.rows[i];
    }
}

static int usable(int tile) {
    if (!unit.configured) fault("tiles are used before they are configured");
    if (tile >= TILES || !unit.rows[tile]) fault("a tile that is not configured");
    return tile;
}

static int on_stack(const uint8_t *p) {
    if (!unit.stack) {
        pthread_attr_t attributes;
        void *low;
        size_t size;
        if (pthread_getattr_np(pthread_self(), &attributes) || pthread_attr_getstack(&attributes, &low, &size)) abort();
        pthread_attr_destroy(&attributes);
        unit.stack = low;
        unit.stack_end = unit.stack + size;
    }
    return p >= unit.stack && p < unit.stack_end;
}

static void move(const instruction *in, int to_memory) {
    int tile = usable(in->reg);
    if (!in->has_sib) fault("rows of a tile without a pitch");
    if (unit.start_row) fault("a tile is moved from a row other than the first");
    if (((uintptr_t)in->base | (uint64_t)in->stride) % ROW_BYTES) add(MISALIGNED, 1);
    if (on_stack(in->base)) add(ON_STACK, 1);
    if (!to_memory) memset(unit.data[tile], 0, sizeof unit.data[tile]);
    for (int row = 0; row < unit.rows[tile]; row++) {
        uint8_t *there = in->base + row * in->stride;
        if (to_memory) memcpy(there, unit.data[tile][row], (size_t)unit.row_bytes[tile]);
        else memcpy(unit.data[tile][row], there, (size_t)unit.row_bytes[tile]);
    }
}

/* (rows, columns, groups of four bytes) of the product. */
static void operands(const instruction *in, int *m, __mmask16 *columns, int *k) {
    if (in->mod != 3) fault("a product with an operand in memory");
    int c = usable(in->reg), a = usable(in->rm), b = usable(in->other);
    if (c == a || c == b || a == b) fault("a product needs three different tiles");
    if ((unit.row_bytes[c] | unit.row_bytes[a] | unit.row_bytes[b]) % 4) fault("rows of a product that are not whole words");
    if (unit.rows[c] != unit.rows[a] || unit.row_bytes[c] != unit.row_bytes[b] || unit.row_bytes[a] != 4 * unit.rows[b])
        fault("the tiles' shapes do not fit a product");
    *m = unit.rows[c];
    *columns = (__mmask16)((1u << unit.row_bytes[c] / 4) - 1);
    *k = unit.rows[b];
}

/* Even and odd products in a chain each, both from zero, and their sum to the result; rounded to the nearest, no subnormal numbers. */
__attribute__((target("avx512f"))) static void dot_bf16(const instruction *in) {
    int m, k;
    __mmask16 columns;
    operands(in, &m, &columns, &k);
    _mm_setcsr(0x1F80 | _MM_FLUSH_ZERO_ON | 0x40); /* sigreturn brings the old one back */
    const __m512i high = _mm512_set1_epi32((int)0xFFFF0000);
    for (int row = 0; row < m; row++) {
        __m512 even = _mm512_setzero_ps(), odd = _mm512_setzero_ps();
        for (int i = 0; i < k; i++) {
            int32_t two;
            memcpy(&two, unit.data[in->rm][row] + 4 * i, 4);
            __m512i left = _mm512_set1_epi32(two), right = _mm512_load_si512(unit.data[in->other][i]);
            even = _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_slli_epi32(left, 16)), _mm512_castsi512_ps(_mm512_slli_epi32(right, 16)), even);
            odd = _mm512_fmadd_ps(
                _mm512_castsi512_ps(_mm512_and_si512(left, high)), _mm512_castsi512_ps(_mm512_and_si512(right, high)), odd
            );
        }
        float *sums = (float *)unit.data[in->reg][row];
        _mm512_store_ps(sums, _mm512_maskz_add_ps(columns, _mm512_load_ps(sums), _mm512_add_ps(even, odd)));
    }
}

/* Unsigned bytes of the first times signed ones of the second, added to words that wrap around. */
__attribute__((target("avx512f,avx512bw"))) static void dot_bytes(const instruction *in) {
    int m, k;
    __mmask16 columns;
    operands(in, &m, &columns, &k);
    for (int row = 0; row < m; row++) {
        __m512i sum = _mm512_load_si512(unit.data[in->reg][row]);
        for (int i = 0; i < k; i++) {
            const uint8_t *four = unit.data[in->rm][row] + 4 * i;
            __m512i right = _mm512_load_si512(unit.data[in->other][i]);
            sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(_mm512_set1_epi32(four[0]), _mm512_srai_epi32(_mm512_slli_epi32(right, 24), 24)));
            sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(_mm512_set1_epi32(four[1]), _mm512_srai_epi32(_mm512_slli_epi32(right, 16), 24)));
            sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(_mm512_set1_epi32(four[2]), _mm512_srai_epi32(_mm512_slli_epi32(right, 8), 24)));
            sum = _mm512_add_epi32(sum, _mm512_mullo_epi32(_mm512_set1_epi32(four[3]), _mm512_srai_epi32(right, 24)));
        }
        _mm512_store_si512(unit.data[in->reg][row], _mm512_maskz_mov_epi32(columns, sum));
    }
}

/* Which instruction it is, or -1. */
static int kind_of(const instruction *in) {
    int memory = in->mod != 3, none = in->other == 0;
    switch (in->opcode) {
    case 0x49:
        if (!none) return -1;
        if (memory && in->reg == 0 && in->prefix == NO_PREFIX) return CONFIGURE;
        if (memory && in->reg == 0 && in->prefix == PREFIX_66) return STORE_CONFIG;
        if (!memory && in->reg == 0 && in->rm == 0 && in->prefix == NO_PREFIX) return RELEASE;
        return !memory && in->rm == 0 && in->prefix == PREFIX_F2 ? ZERO : -1;
    case 0x4B:
        if (!memory || !none) return -1;
        return in->prefix == PREFIX_F2 ? LOAD : in->prefix == PREFIX_66 ? LOAD_T1 : in->prefix == PREFIX_F3 ? STORE : -1;
    case 0x5C:
        return in->prefix == PREFIX_F3 ? DOT_BF16 : -1;
    default:
        return in->prefix == PREFIX_66 ? DOT_BYTES : -1;
    }
}

static int emulate(greg_t *r) {
    const uint8_t *p = (const uint8_t *)(uintptr_t)r[REG_RIP];
    instruction in;
    int kind = decode(p, r, &in) ? kind_of(&in) : -1;
    if (kind < 0) return 0;
    at = p;
    if (!granted) fault("a process uses tiles for which it has not asked, or which it was refused");
    add(kind, 1);
    switch (kind) {
    case CONFIGURE: configure(in.base + in.stride); break;
    case STORE_CONFIG: store_configuration(in.base + in.stride); break;
    case RELEASE: forget(); break;
    case ZERO: memset(unit.data[usable(in.reg)], 0, sizeof unit.data[0]); break;
    case LOAD:
    case LOAD_T1: move(&in, 0); break;
    case STORE: move(&in, 1); break;
    case DOT_BF16: dot_bf16(&in); break;
    default: dot_bytes(&in);
    }
    r[REG_RIP] += in.length;
    return 1;
}

/* The stand-ins of cpuid_with_tiles.h: UD2 and two letters. */
static int identify(greg_t *r) {
    const uint8_t *p = (const uint8_t *)(uintptr_t)r[REG_RIP];
    unsigned a = (unsigned)r[REG_RAX], b = 0, c = (unsigned)r[REG_RCX], d = 0;
    if (memcmp(p, "\x0f\x0b", 2)) return 0;
    if (!memcmp(p + 2, "CP", 2)) {
        unsigned leaf = a, subleaf = c;
        __cpuid_count(leaf, subleaf, a, b, c, d);
        if (leaf == 7 && subleaf == 0) d |= 1u << 22 | 1u << 24 | 1u << 25;
        r[REG_RBX] = b;
        r[REG_RCX] = c;
    } else if (!memcmp(p + 2, "XG", 2)) {
        __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(c));
        a |= 0x60000;
    } else {
        return 0;
    }
    r[REG_RAX] = a;
    r[REG_RDX] = d;
    r[REG_RIP] += 4;
    return 1;
}

static void on_illegal(int number, siginfo_t *info, void *context) {
    greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
    if (emulate(r)) {
        while (emulate(r)) continue; /* those that follow at once, without a signal each */
        return;
    }
    if (identify(r)) return;
    if (previous.sa_flags & SA_SIGINFO) {
        previous.sa_sigaction(number, info, context);
    } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
        previous.sa_handler(number);
    } else { /* the instruction raises the signal again */
        sigaction(SIGILL, &previous, NULL);
    }
}

__attribute__((constructor)) static void begin(void) {
    const char *mode = getenv("TILE_UNIT");
    if (!mode) return;
    listed = 1;
    grants = !strcmp(mode, "granted");
    struct sigaction action = {.sa_sigaction = on_illegal, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    sigaction(SIGILL, &action, &previous);
}

EXPORT int64_t tile_count(int number) {
    return number >= 0 && number < NUMBERS ? __atomic_load_n(numbers + number, __ATOMIC_RELAXED) : -1;
}

static long forward(long number, long a, long b, long c, long d, long e, long f) {
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "=a"(result) : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    if (result < 0 && result > -4096) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

EXPORT long syscall(long number, ...) {
    long a[6];
    va_list rest;
    va_start(rest, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(rest, long);
    va_end(rest);
    if (listed && number == SYS_arch_prctl && a[0] == ASK_PERMISSION && a[1] == TILE_DATA) {
        add(REQUESTS, 1);
        granted = grants;
        errno = grants ? 0 : EPERM;
        return grants ? 0 : -1;
    }
    return forward(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* /proc/cpuinfo with the unit's features. */
static int cpuinfo(void) {
    static const char flags[] = "flags", more[] = " amx_bf16 amx_tile amx_int8\n";
    int from = (int)forward(SYS_openat, AT_FDCWD, (long)"/proc/cpuinfo", O_RDONLY | O_CLOEXEC, 0, 0, 0);
    int to = memfd_create("cpuinfo", MFD_CLOEXEC);
    FILE *in = fdopen(from, "r"), *out = fdopen(dup(to), "w");
    char *line = NULL;
    size_t room = 0;
    if (!in || !out) abort();
    for (ssize_t length; (length = getline(&line, &room, in)) > 0;) {
        if (!strncmp(line, flags, sizeof flags - 1) && line[length - 1] == '\n') fprintf(out, "%.*s%s", (int)length - 1, line, more);
        else fputs(line, out);
    }
    free(line);
    fclose(in);
    fclose(out);
    lseek(to, 0, SEEK_SET);
    return to;
}

static int opened(const char *path, int flags, mode_t mode) {
    if (listed && !strcmp(path, "/proc/cpuinfo")) return cpuinfo();
    return (int)forward(SYS_openat, AT_FDCWD, (long)path, flags, mode, 0, 0);
}

EXPORT int open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return opened(path, flags, mode);
}

EXPORT int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return opened(path, flags | O_LARGEFILE, mode);
}
