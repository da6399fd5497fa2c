/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOARD_ARM_ARM_H
#define BOARD_ARM_ARM_H
/* Inside board/arm: what its files know of each other. arm.c is the order of start-up. */
#include "board/machine.h"

extern struct machine arm_machine;

/* console.c: a PL011; 0: none. Again after each change of page tables. */
void console_init(uint64_t pl011);

/* tables.c: what ACPI says, into *m. SR_EINVAL: nothing could be read. */
int tables_read(struct machine *m, uint64_t rsdp);

/* sbsa.c: what the tree of QEMU's sbsa-ref leaves to its manual. */
bool sbsa_is(const struct machine *m);
void sbsa_complete(struct machine *m);

/* fw_cfg_mmio.c */
void fw_cfg_mmio_init(uint64_t base);

/* button.c */
void button_init(const struct machine *m);

/* pci_host.c: NULL: this machine has no PCI. */
const struct pci_host *arm_pci_host(const struct machine *m);
#endif
