/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The end. Sources: Arm DEN 0022 (PSCI) 5.9 and 5.10; DEN 0028 (SMC calling convention);
 * "Semihosting for AArch32 and AArch64" 2.0, SYS_EXIT.
 *
 * Whether there is somebody to answer semihosting cannot be asked: without, its HLT is an undefined
 * instruction. arch_exception knows the address and comes back by semihosting_missing().
 */
#include "boot/aarch64/psci.h"
#include "boot/aarch64/cpu.h"
#include "kernel/board.h"

enum { SYSTEM_OFF = 0x84000008u, SYSTEM_RESET = 0x84000009u };
enum { SYS_EXIT = 0x18, ADP_STOPPED_APPLICATION_EXIT = 0x20026 };

static enum psci_conduit conduit;

void psci_init(enum psci_conduit c)
{
    conduit = c;
}

static void psci_call(uint32_t function)
{
    register uint64_t x0 __asm__("x0") = function;
#define CLOBBERS                                                                             \
    "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", \
        "x15", "x16", "x17", "memory"
    if (conduit == PSCI_CONDUIT_HVC)
        __asm__ volatile("hvc #0" : "+r"(x0) : : CLOBBERS);
    else if (conduit == PSCI_CONDUIT_SMC)
        __asm__ volatile("smc #0" : "+r"(x0) : : CLOBBERS);
}

void psci_off(void)
{
    psci_call(SYSTEM_OFF);
}

void psci_reset(void)
{
    psci_call(SYSTEM_RESET);
}

static NORETURN void power_off(void)
{
    psci_off();
    psci_reset();
    for (;;)
        __asm__ volatile("wfi");
}

NORETURN void semihosting_missing(void)
{
    power_off();
}

static void semihosting_exit(uint64_t status)
{
    uint64_t block[2] = {ADP_STOPPED_APPLICATION_EXIT, status};
    register uint64_t x0 __asm__("x0") = SYS_EXIT;
    register void *x1 __asm__("x1") = block;
    __asm__ volatile(".globl semihosting_call\nsemihosting_call: hlt #0xf000"
                     : "+r"(x0)
                     : "r"(x1)
                     : "memory");
}

NORETURN void board_exit(enum board_exit how)
{
    if (how != BOARD_EXIT_CLEAN || conduit == PSCI_CONDUIT_NONE)
        semihosting_exit(how == BOARD_EXIT_CLEAN ? 0 : (uint64_t)how << 1 | 1);
    power_off();
}
