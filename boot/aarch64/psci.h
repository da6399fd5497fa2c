/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOOT_AARCH64_PSCI_H
#define BOOT_AARCH64_PSCI_H
/*
 * The end: board_exit (kernel/board.h) for every Arm board, on top of PSCI 1.0 and semihosting.
 * Clean: PSCI SYSTEM_OFF. Other ends leave their status by semihosting, when a debugger or emulator
 * offers it; without, they end like a clean power-off. Any context.
 */
enum psci_conduit { PSCI_CONDUIT_NONE, PSCI_CONDUIT_HVC, PSCI_CONDUIT_SMC };

/* What the device tree or the FADT says; before this call there is only semihosting. */
void psci_init(enum psci_conduit conduit);
/* These return only when it did not work. */
void psci_off(void);
void psci_reset(void);
#endif
