/* Tile instructions in every form of address, and whole products, for the tests of unit.c. */
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))
#define TILE(...) __asm__ volatile(__VA_ARGS__)

/* Where a tile without a base register is loaded from: the displacement is part of the instruction. */
EXPORT const int64_t low_address = 0x10000000;

EXPORT void configure(const void *config) { TILE("ldtilecfg (%0)" ::"r"(config) : "memory"); }
EXPORT void release(void) { TILE("tilerelease"); }
EXPORT void illegal(void) { TILE("ud2"); }

/* Every form of address of LDTILECFG, and the configuration back by STTILECFG; the number of forms. */
EXPORT int configure_by(int form, const uint8_t *config, uint8_t *back) {
    switch (form) {
    case 0: TILE("mov %0, %%rax\n ldtilecfg (%%rax)" ::"r"(config) : "rax", "memory"); break;
    case 1: TILE("lea -8(%0), %%r12\n ldtilecfg 8(%%r12)" ::"r"(config) : "r12", "memory"); break;
    case 2: TILE("lea 0x12345(%0), %%r13\n ldtilecfg -0x12345(%%r13)" ::"r"(config) : "r13", "memory"); break;
    case 3: TILE("mov %0, %%r13\n ldtilecfg (%%r13)" ::"r"(config) : "r13", "memory"); break;
    case 4: TILE("lea -24(%0), %%r9\n mov $3, %%r10d\n ldtilecfg (%%r9,%%r10,8)" ::"r"(config) : "r9", "r10", "memory"); break;
    case 5:
        TILE("push %%rbp\n mov %0, %%rax\n lea -200(%%rax), %%rbp\n ldtilecfg 200(%%rbp)\n pop %%rbp" ::"r"(config) : "rax", "memory");
        break;
    case 6: /* at a distance from the next instruction */
        TILE("mov %0, %%rsi\n lea 1f(%%rip), %%rdi\n mov $8, %%ecx\n rep movsq\n ldtilecfg 1f(%%rip)\n"
             ".pushsection .data\n.balign 64\n1: .zero 64\n.popsection" ::"r"(config) : "rsi", "rdi", "rcx", "memory");
        break;
    default: return 7;
    }
    TILE("mov %0, %%r11\n sttilecfg (%%r11)" ::"r"(back) : "r11", "memory");
    return 7;
}

/* Every form of address of TILELOADD: tile 5 from ``from`` by ``pitch``, a multiple of 8, stored to ``to``. */
EXPORT int load_by(int form, const uint8_t *from, int64_t pitch, uint8_t *to) {
    int64_t half = pitch / 2, quarter = pitch / 4, eighth = pitch / 8;
    TILE("tilezero %%tmm5" ::);
    switch (form) {
    case 0: TILE("tileloadd (%0,%1,1), %%tmm5" ::"r"(from), "r"(pitch) : "memory"); break;
    case 1: TILE("lea -64(%0), %%r8\n mov %1, %%r9\n tileloadd 64(%%r8,%%r9,2), %%tmm5" ::"r"(from), "r"(half) : "r8", "r9", "memory"); break;
    case 2:
        TILE("lea -0x12345(%0), %%rax\n mov %1, %%rcx\n tileloadd 0x12345(%%rax,%%rcx,4), %%tmm5" ::"r"(from), "r"(quarter)
             : "rax", "rcx", "memory");
        break;
    case 3:
        TILE("mov %1, %%r15\n mov %0, %%rax\n push %%rbp\n lea 128(%%rax), %%rbp\n tileloaddt1 -128(%%rbp,%%r15,8), %%tmm5\n pop %%rbp" ::"r"(from),
             "r"(eighth)
             : "rax", "r15", "memory");
        break;
    case 4: TILE("mov %0, %%r13\n mov %1, %%r12\n tileloadd (%%r13,%%r12,1), %%tmm5" ::"r"(from), "r"(pitch) : "r12", "r13", "memory"); break;
    case 5: TILE("mov %0, %%rcx\n tileloaddt1 0x10000000(,%%rcx,1), %%tmm5" ::"r"(pitch) : "rcx", "memory"); break;
    case 6: /* the signal's frame comes to lie below ``from`` */
        TILE("mov %0, %%rdx\n mov %1, %%rdi\n mov %%rsp, %%rbx\n mov %%rdx, %%rsp\n tileloadd (%%rsp,%%rdi,1), %%tmm5\n mov %%rbx, %%rsp" ::"r"(from),
             "r"(pitch)
             : "rbx", "rdx", "rdi", "memory");
        break;
    case 7: TILE("mov %0, %%r11\n tileloadd (%%r11), %%tmm5" ::"r"(from) : "r11", "memory"); break; /* every row the same */
    default: return 8;
    }
    TILE("mov %0, %%r14\n mov $64, %%r10d\n tilestored %%tmm5, (%%r14,%%r10,1)" ::"r"(to) : "r10", "r14", "memory");
    return 8;
}

#define PRODUCT(name, instruction, C, A, B)                                                                                        \
    EXPORT void name(const uint8_t *c, const uint8_t *a, const uint8_t *b, uint8_t *to) {                                          \
        TILE("tileloadd (%0,%4,1), %%tmm" #C "\n tileloadd (%1,%4,1), %%tmm" #A "\n tileloadd (%2,%4,1), %%tmm" #B "\n" instruction \
             " %%tmm" #B ", %%tmm" #A ", %%tmm" #C "\n tilestored %%tmm" #C ", (%3,%4,1)" ::"r"(c), "r"(a), "r"(b), "r"(to),        \
             "r"((int64_t)64)                                                                                                      \
             : "memory");                                                                                                          \
    }
PRODUCT(bf16_012, "tdpbf16ps", 0, 1, 2)
PRODUCT(bf16_735, "tdpbf16ps", 7, 3, 5)
PRODUCT(bf16_264, "tdpbf16ps", 2, 6, 4)
PRODUCT(bytes_012, "tdpbusd", 0, 1, 2)
PRODUCT(bytes_735, "tdpbusd", 7, 3, 5)
PRODUCT(bytes_264, "tdpbusd", 2, 6, 4)

/* tdpbusd %tmm1, %tmm1, %tmm0, which the assembler refuses. */
EXPORT void same_tiles(void) { TILE(".byte 0xc4, 0xe2, 0x71, 0x5e, 0xc1" ::); }
