/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOARD_ECAM_H
#define BOARD_ECAM_H
/*
 * PCI configuration space in memory (PCI Express Base 5.0, 7.2.2): 4 KiB a function, 1 MiB a bus.
 * One host; each bus is mapped when it is first touched. Loop 0, control path.
 */
#include "kernel/pci.h"

/* Sets the access functions and the bus range. `base` is the address of bus 0, whether or not the
 * range begins there. */
void ecam_use(struct pci_host *h, uint64_t base, uint8_t first_bus, uint8_t last_bus);
#endif
