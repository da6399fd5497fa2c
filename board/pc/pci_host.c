/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * PCI configuration access of a PC, best first: the ECAM that ACPI's MCFG tells, q35's own register
 * for it (PCIEXBAR), the ports 0xcf8/0xcfc. microvm has PCI only together with ACPI.
 *
 * And the windows in which BARs without an address get one: qboot assigns none, SeaBIOS all of
 * q35's, and none of microvm's.
 */
#include "board/ecam.h"
#include "board/pc/pc.h"
#include "boot/boot.h"
#include "boot/x86_64/cpu.h"
#include "kernel/log.h"

enum { CONFIG_ADDRESS = 0xcf8, CONFIG_DATA = 0xcfc };
enum { PCIEXBAR = 0x60, PCIEXBAR_ENABLE = 1 };
#define CHIPSET_BASE 0xfec00000ull /* I/O APIC, HPET, local APIC, ROM */
#define FOUR_GIB     0x100000000ull
#define ECAM_BUS     0x100000u

static uint64_t ecam_base; /* of bus 0 */
static struct pci_host pc_host;

static uint32_t port_select(uint8_t bus, uint8_t devfn, uint16_t off)
{
    outl(CONFIG_ADDRESS, 0x80000000u | (uint32_t)bus << 16 | (uint32_t)devfn << 8 | (off & 0xfc));
    return CONFIG_DATA + (off & 3u);
}

uint32_t pc_port_config_read(uint8_t bus, uint8_t devfn, uint16_t off, unsigned width)
{
    if (off >= 0x100)
        return UINT32_MAX;
    uint16_t port = (uint16_t)port_select(bus, devfn, off);
    return width == 1 ? inb(port) : width == 2 ? inw(port) : inl(port);
}

static void port_config_write(uint8_t bus, uint8_t devfn, uint16_t off, unsigned width, uint32_t v)
{
    if (off >= 0x100)
        return;
    uint16_t port = (uint16_t)port_select(bus, devfn, off);
    if (width == 1)
        outb(port, (uint8_t)v);
    else if (width == 2)
        outw(port, (uint16_t)v);
    else
        outl(port, v);
}

static bool find_access(void)
{
    if (pc_acpi.ecam.base) { /* MCFG's base is that of bus 0, even when first_bus is not 0 */
        ecam_base = pc_acpi.ecam.base;
        ecam_use(&pc_host, ecam_base, pc_acpi.ecam_first, pc_acpi.ecam_last);
        return true;
    }
    if (pc_kind == PC_MICROVM)
        return false;
    uint32_t bar = pc_kind == PC_Q35 ? pc_port_config_read(0, 0, PCIEXBAR, 4) : 0;
    if (bar & PCIEXBAR_ENABLE) {
        ecam_base = bar & 0xf0000000;
        ecam_use(&pc_host, ecam_base, 0, 255);
        return true;
    }
    pc_host.cfg_read = pc_port_config_read;
    pc_host.cfg_write = port_config_write;
    pc_host.last_bus = 255;
    return true;
}

/* Below 4 GiB: on microvm what its bridge decodes; on the others, whose bridge passes on what is
 * not RAM, everything between RAM or ECAM and the chip set. */
static void find_low_window(void)
{
    if (pc_kind == PC_MICROVM) {
        pc_host.mmio32_base = pc_acpi.mmio32.base;
        pc_host.mmio32_size = pc_acpi.mmio32.size;
        return;
    }
    uint64_t base = 0xc0000000;
    unsigned count;
    const struct phys_range *ram = memory_ram(&count);
    for (unsigned i = 0; i < count; i++)
        if (ram[i].base < CHIPSET_BASE && ram[i].end > base)
            base = align_up(ram[i].end, 1u << 28); /* firmware's tables lie at the end of RAM */
    uint64_t ecam_end = ecam_base + 256ull * ECAM_BUS;
    if (ecam_base && ecam_base < CHIPSET_BASE && ecam_end > base)
        base = ecam_end;
    pc_host.mmio32_base = base;
    pc_host.mmio32_size = base < CHIPSET_BASE ? CHIPSET_BASE - base : 0;
}

static void find_high_window(void)
{
    if (pc_kind == PC_MICROVM) {
        pc_host.mmio64_base = pc_acpi.mmio64.base;
        pc_host.mmio64_size = pc_acpi.mmio64.size;
        return;
    }
    unsigned bits = cpuid(0x80000000, 0).a >= 0x80000008 ? cpuid(0x80000008, 0).a & 0xff : 36;
    uint64_t end = 1ull << MIN(bits, 46u);
    uint64_t base = align_up(MAX(memory_top(), FOUR_GIB), 1ull << 35);
    if (base >= end)
        base = align_up(MAX(memory_top(), FOUR_GIB), 1ull << 30);
    pc_host.mmio64_base = base;
    pc_host.mmio64_size = base < end ? end - base : 0;
}

const struct pci_host *pc_pci_host(void)
{
    if (!find_access())
        return NULL;
    find_low_window();
    find_high_window();
    return &pc_host;
}
