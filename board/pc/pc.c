/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The PC board: QEMU's q35 and microvm, and by the same means i440fx and real machines.
 *
 * Start-up, in this order because each step needs the one before: console, which machine, local
 * APIC (its timer starts to count), ACPI tables (meanwhile time passes, which the clock's
 * calibration needs anyway), I/O APICs, clock, power; then main on the big stack. Interrupts stay
 * off except inside board_idle. Devices are looked for later, by co_board_probe.
 */
#include "board/pc/pc.h"
#include "board/acpi_map.h"
#include "board/board.h"
#include "boot/arch.h"
#include "boot/boot.h"
#include "boot/x86_64/cpu.h"
#include "kernel/board.h"
#include "kernel/log.h"

#define ID_Q35    0x29c08086u
#define ID_I440FX 0x12378086u

enum pc_kind pc_kind;
struct acpi_info pc_acpi;
const char *pc_cmdline = "";
static bool has_rdrand, has_rdseed;

const char *board_name(void)
{
    return pc_kind == PC_Q35 ? "q35" : pc_kind == PC_I440FX ? "pc" : "microvm";
}

const char *board_arch(void)
{
    return ARCH_NAME;
}

unsigned board_cores(void)
{
    return pc_acpi.cpus ? pc_acpi.cpus : 1;
}

/* The host bridge tells; microvm has no configuration ports and reads as all ones. */
static enum pc_kind find_kind(void)
{
    uint32_t id = pc_port_config_read(0, 0, 0, 4);
    return id == ID_Q35 ? PC_Q35 : id == ID_I440FX || id != UINT32_MAX ? PC_I440FX : PC_MICROVM;
}

static void read_acpi(uint64_t rsdp)
{
    if (rsdp)
        acpi_parse(&pc_acpi, rsdp, &acpi_physical);
    for (unsigned i = 0; i < pc_acpi.ioapics; i++)
        ioapic_add(pc_acpi.ioapic[i].base, pc_acpi.ioapic[i].gsi_base);
}

bool board_hw_random(uint64_t *v)
{
    unsigned char ok = 0;
    for (int i = 0; i < 10 && !ok && has_rdseed; i++)
        __asm__ volatile("rdseed %0; setc %1" : "=r"(*v), "=qm"(ok) : : "cc");
    for (int i = 0; i < 10 && !ok && has_rdrand; i++)
        __asm__ volatile("rdrand %0; setc %1" : "=r"(*v), "=qm"(ok) : : "cc");
    return ok;
}

NORETURN void board_start(const struct boot_info *info)
{
    console_init();
    pc_cmdline = info->cmdline;
    pc_kind = find_kind();
    has_rdrand = cpuid(1, 0).c & 1u << 30;
    has_rdseed = cpuid(0, 0).a >= 7 && cpuid(7, 0).b & 1u << 18;
    lapic_init();
    clock_begin();
    read_acpi(info->rsdp);
    ioapic_init();
    power_init();
    fw_cfg_port_init();
    clock_end(pc_acpi.pm_timer);
    boot_enter_main(info->cmdline);
}

void co_board_probe(void)
{
    static struct mmio_dev mmio[ACPI_MAX_MMIO];
    const struct pci_host *host = pc_pci_host();
    if (host) {
        pci_init(host);
        co_pci_probe();
    }
    unsigned n = pc_mmio_devices(mmio, ACPI_MAX_MMIO);
    for (unsigned i = 0; i < n; i++)
        co_mmio_offer(&mmio[i]);
}
