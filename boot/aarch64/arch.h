/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOOT_AARCH64_ARCH_H
#define BOOT_AARCH64_ARCH_H
/* The aarch64 side of boot/arch.h; see there for the contract. */

#define ARCH_NAME        "aarch64"
#define ARCH_LINEAR_BASE 0xffff000000000000ull /* first address of the upper half: 128 TiB */

static inline void *arch_sp(void)
{
    void *sp;
    __asm__ volatile("mov %0, sp" : "=r"(sp));
    return sp;
}
static inline uint64_t arch_cycles(void)
{
    uint64_t v;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(v));
    return v;
}
static inline void arch_cpu_relax(void)
{
    __asm__ volatile("yield");
}
#endif
