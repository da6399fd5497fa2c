/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOOT_X86_64_ARCH_H
#define BOOT_X86_64_ARCH_H
/* The x86_64 side of boot/arch.h; see there for the contract. */

#define ARCH_NAME        "x86_64"
#define ARCH_LINEAR_BASE 0xffff800000000000ull /* first address of the upper half: 128 TiB */

static inline void *arch_sp(void)
{
    void *sp;
    __asm__ volatile("mov %%rsp, %0" : "=r"(sp));
    return sp;
}
static inline uint64_t arch_cycles(void)
{
    return __builtin_ia32_rdtsc();
}
static inline void arch_cpu_relax(void)
{
    __builtin_ia32_pause();
}
#endif
