/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOARD_PC_PC_H
#define BOARD_PC_PC_H
/* Inside board/pc: what its files know of each other. pc.c is the order of start-up. */
#include "board/acpi.h"
#include "kernel/pci.h"

enum pc_kind { PC_MICROVM, PC_I440FX, PC_Q35 };
extern enum pc_kind pc_kind;
extern struct acpi_info pc_acpi;
extern const char *pc_cmdline;

/* console.c */
void console_init(void);

/* fw_cfg_port.c */
void fw_cfg_port_init(void);

/* power.c: after the interrupt controllers are up. */
void power_init(void);

/* pci_host.c: finds configuration access. NULL: this machine has no PCI. */
const struct pci_host *pc_pci_host(void);
uint32_t pc_port_config_read(uint8_t bus, uint8_t devfn, uint16_t off, unsigned width);

/* mmio.c: devices of the DSDT or of the command line, by address; returns how many. */
unsigned pc_mmio_devices(struct mmio_dev *out, unsigned max);
#endif
