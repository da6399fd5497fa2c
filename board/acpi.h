/* SPDX-License-Identifier: BSD-2-Clause */
#ifndef BOARD_ACPI_H
#define BOARD_ACPI_H
/*
 * What the firmware's ACPI tables say about the machine, as plain numbers. Start-up only, one pass,
 * no memory is allocated or kept. Physical addresses; 0 means "not there" for all of them.
 *
 * The tables are foreign bytes. A table that is cut short, lies about its length, has a wrong sum
 * or points in a circle is left out with one log line; the rest is still read. Nothing aborts.
 */
#include "kernel/compiler.h"

#define ACPI_MAX_CPUS    64
#define ACPI_MAX_IOAPICS 8
#define ACPI_MAX_MMIO    64
#define ACPI_MAX_REDISTS 4

/* How the parser reads physical memory: NULL when [phys, phys + len) is not there. What it returns
 * stays valid until the end of the parse. */
struct acpi_reader {
    const void *(*map)(void *ctx, uint64_t phys, size_t len);
    void *ctx;
};
struct acpi_register { /* generic address structure */
    bool io;           /* I/O port, else memory */
    uint8_t width;     /* bits; 0: unknown */
    uint64_t address;
};
struct acpi_window {
    uint64_t base, size;
};
struct acpi_device { /* a memory-mapped device of the DSDT */
    uint64_t base, len;
    unsigned gsi;
    bool level, low;
};

struct acpi_info {
    unsigned cpus; /* usable ones; ids of the first ACPI_MAX_CPUS */
    uint32_t cpu_id[ACPI_MAX_CPUS];
    unsigned ioapics;
    struct {
        uint64_t base;
        uint32_t gsi_base;
    } ioapic[ACPI_MAX_IOAPICS];
    struct {
        uint32_t gsi;
        bool set, level, low;
    } isa_irq[16]; /* overrides; not set: identity, edge, active high */

    struct {          /* of Arm machines */
        unsigned gic; /* version; 0: no distributor */
        uint64_t dist, cpu, v2m, its;
        unsigned redists;
        struct acpi_window redist[ACPI_MAX_REDISTS];
        unsigned timer_gsi; /* the virtual timer's */
        uint64_t pl011;
        bool psci, psci_hvc;
        struct acpi_device fw_cfg; /* QEMU0002, where it has memory and not ports */
    } arm;

    bool fadt, hw_reduced;
    unsigned sci;
    uint16_t smi_cmd;
    uint8_t acpi_enable;
    uint16_t pm1a_evt, pm1a_cnt, pm1b_cnt, pm_timer; /* I/O ports */
    uint8_t pm1_evt_len;
    struct acpi_register reset, sleep_control;
    uint8_t reset_value;

    bool s5; /* the DSDT has \_S5_ */
    uint8_t s5_a, s5_b;

    struct acpi_window ecam; /* of segment 0, from bus ecam_first on */
    uint8_t ecam_first, ecam_last;

    unsigned virtio_count; /* virtio-mmio: LNRO0005 */
    struct acpi_device virtio[ACPI_MAX_MMIO];
    struct acpi_device ged;            /* generic event device: interrupt; base: its EREG region */
    struct acpi_window mmio32, mmio64; /* the largest windows of bridges */
};

/* `rsdp` is the physical address of the root pointer. 0, or SR_EINVAL: nothing could be read. */
int acpi_parse(struct acpi_info *info, uint64_t rsdp, const struct acpi_reader *reader);
/* The body of a DSDT or SSDT: what a byte scan can find. Called by acpi_parse; alone for tests. */
void acpi_scan_aml(struct acpi_info *info, const uint8_t *aml, size_t len);
#endif
