/* Included before a C file for tests: CPUID and XGETBV as instructions that the CPU refuses, for unit.c to answer. */
#ifndef __ASSEMBLER__
__asm__(".macro cpuid\n.byte 0x0f, 0x0b, 'C', 'P'\n.endm\n.macro xgetbv\n.byte 0x0f, 0x0b, 'X', 'G'\n.endm");
#endif
