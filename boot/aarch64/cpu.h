/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOOT_AARCH64_CPU_H
#define BOOT_AARCH64_CPU_H
/*
 * System registers as functions, and the names that the assembly files and the C files of
 * boot/aarch64 share. Boot core.
 */
#include "kernel/compiler.h"

#define READ_SYSREG(name)                                      \
    ({                                                         \
        uint64_t sysreg_;                                      \
        __asm__ volatile("mrs %0, " name : "=r"(sysreg_) : :); \
        sysreg_;                                               \
    })
#define WRITE_SYSREG(name, v) __asm__ volatile("msr " name ", %0" : : "r"((uint64_t)(v)) : "memory")

static inline void isb(void)
{
    __asm__ volatile("isb" : : : "memory");
}
static inline void dsb(void)
{
    __asm__ volatile("dsb sy" : : : "memory");
}

/* linker.ld */
extern char trap_guard[], boot_guard[], boot_tables[], early_tables[], early_tables_end[];

/* mmu.c: the tables of start.S are ours from now on. */
void mmu_begin(uint64_t image_phys);

/* psci.c: the address of the instruction that asks for semihosting; it faults where there is none,
 * and semihosting_missing goes on from there. */
extern char semihosting_call[];
NORETURN void semihosting_missing(void);

/* its.c: GICv3's translation of messages. `lpi_ready` turns the redistributor's part on. */
#define LPI_COUNT 64u
bool its_init(uint64_t its, volatile uint8_t *redistributor, uint64_t redistributor_phys);
int its_message(uint32_t device, unsigned event, uint64_t *addr, uint32_t *data);
#endif
