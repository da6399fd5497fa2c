/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef KERNEL_PCI_HW_H
#define KERNEL_PCI_HW_H
/* Configuration space: PCI Local Bus 3.0, chapter 6; PCI-to-PCI bridges 1.2, chapter 3. */

enum {
    PCI_VENDOR = 0x00,
    PCI_DEVICE = 0x02,
    PCI_COMMAND = 0x04,
    PCI_STATUS = 0x06,
    PCI_CLASS_REV = 0x08,
    PCI_HEADER_TYPE = 0x0e,
    PCI_BAR0 = 0x10,
    PCI_PRIMARY_BUS = 0x18,
    PCI_SECONDARY_BUS = 0x19,
    PCI_SUBORDINATE_BUS = 0x1a,
    PCI_MEMORY_BASE = 0x20,
    PCI_MEMORY_LIMIT = 0x22,
    PCI_PREF_BASE = 0x24,
    PCI_PREF_LIMIT = 0x26,
    PCI_PREF_BASE_HIGH = 0x28,
    PCI_PREF_LIMIT_HIGH = 0x2c,
    PCI_SUBSYS_VENDOR = 0x2c,
    PCI_SUBSYS = 0x2e,
    PCI_CAPABILITIES = 0x34,
    PCI_INTERRUPT_PIN = 0x3d,
    PCI_CONFIG_END = 0x100, /* of the space that capabilities live in */
};
enum { COMMAND_IO = 1, COMMAND_MEMORY = 2, COMMAND_MASTER = 4, COMMAND_NO_INTX = 0x400 };
enum { STATUS_CAPABILITIES = 0x10 };
enum { HEADER_MASK = 0x7f, HEADER_BRIDGE = 1, HEADER_MULTI = 0x80 };
enum { BAR_IO = 1, BAR_64 = 4, BAR_TYPE = 6, BAR_PREFETCH = 8, BAR_FLAGS = 15 };
enum { CAP_MSI = 0x05, CAP_MSIX = 0x11 };
enum { MSI_CONTROL = 2, MSI_ADDRESS = 4, MSI_ENABLE = 1, MSI_COUNT = 0x70, MSI_64 = 0x80 };
enum {
    MSIX_CONTROL = 2,
    MSIX_TABLE = 4,
    MSIX_ENABLE = 0x8000,
    MSIX_MASK_ALL = 0x4000,
    MSIX_SIZE = 0x7ff,
    MSIX_ENTRY_MASKED = 1
};
#endif
