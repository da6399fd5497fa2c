/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The Arm board: QEMU's virt and sbsa-ref, and by the same means whatever a device tree or ACPI
 * describes with the devices of Arm's base system architecture: GIC, generic timer, PL011, PCIe by
 * ECAM, PSCI.
 *
 * Who knows the machine:
 *     -kernel, U-Boot      the device tree; sbsa-ref's has memory and processors only, the rest is
 *                          fixed by its manual (sbsa.c)
 *     UEFI                 ACPI, or a tree when there is no ACPI; RAM is told by boot/
 *
 * Start-up: board_survey reads the tree on the first page tables, since nobody else knows RAM.
 * board_start then: console, ACPI, interrupt controller, timer, power, fw_cfg; then main on the big
 * stack. Devices are looked for later, by co_board_probe.
 */
#include "board/arm/arm.h"

#include "board/acpi.h"
#include "board/board.h"
#include "board/fdt.h"
#include "boot/arch.h"
#include "boot/boot.h"
#include "kernel/board.h"
#include "kernel/endian.h"
#include "kernel/error.h"
#include "kernel/log.h"

#include <string.h>

#define TIMER_IRQ   27u /* the virtual timer's on every machine that follows the BSA (DEN 0094) */
#define TREE_HEADER 8u  /* of which the second word is the length */
#define TREE_MAX    (2u << 20) /* Linux, Documentation/arm64/booting.rst */

struct machine arm_machine;

const char *board_name(void)
{
    const char *c = arm_machine.compatible;
    return sbsa_is(&arm_machine) ? "sbsa-ref" : !c || !strcmp(c, "linux,dummy-virt") ? "virt" : c;
}

const char *board_arch(void)
{
    return ARCH_NAME;
}

unsigned board_cores(void)
{
    return arm_machine.cpus ? arm_machine.cpus : 1;
}

/* RNDR (DDI 0487, D17.2.124): Z tells that it had nothing to give. */
bool board_hw_random(uint64_t *v)
{
    uint64_t features;
    uint32_t ok = 0;
    __asm__("mrs %0, id_aa64isar0_el1" : "=r"(features));
    for (int i = 0; i < 10 && !ok && features >> 60; i++)
        __asm__ volatile("mrs %0, s3_3_c2_c4_0; cset %w1, ne" : "=r"(*v), "=r"(ok) : : "cc");
    return ok;
}

/* ---- before the final page tables ---- */

static const void *map_tree(uint64_t phys)
{
    be32 len;
    const char *head = phys % 8 ? NULL : phys_window(phys, TREE_HEADER);
    if (!head)
        return NULL;
    memcpy(&len, head + 4, 4);
    return be32_get(len) <= TREE_MAX ? phys_window(phys, be32_get(len)) : NULL;
}

static void survey_memory(const struct machine *m)
{
    unsigned known;
    memory_ram(&known);
    for (unsigned i = 0; i < m->ram_count && !known; i++)
        memory_add(m->ram[i].base, m->ram[i].len);
    for (unsigned i = 0; i < m->reserved_count; i++)
        memory_reserve(m->reserved[i].base, m->reserved[i].len);
}

void board_survey(struct boot_info *info)
{
    struct machine *m = &arm_machine;
    const void *tree = info->fdt ? map_tree(info->fdt) : NULL;
    be32 len;
    if (!tree)
        return;
    memcpy(&len, (const char *)tree + 4, 4);
    if (fdt_read(m, tree, be32_get(len)))
        return;
    if (sbsa_is(m))
        sbsa_complete(m);
    console_init(m->pl011);
    survey_memory(m);
    memory_reserve(info->fdt, m->tree_len); /* its texts are used */
    if (!info->cmdline)
        info->cmdline = m->bootargs ? m->bootargs : "";
    if (m->initrd.len && info->module_count < BOOT_MODULES) {
        memory_reserve(m->initrd.base, m->initrd.len);
        info->module[info->module_count++] =
            (struct phys_range){m->initrd.base, m->initrd.base + m->initrd.len};
    }
}

/* ---- after ---- */

NORETURN void board_start(const struct boot_info *info)
{
    struct machine *m = &arm_machine;
    if (info->rsdp && !m->gic.version)
        tables_read(m, info->rsdp);
    console_init(m->pl011);
    gic_init(&m->gic);
    clock_init(m->timer_irq ? m->timer_irq : TIMER_IRQ);
    psci_init(m->psci);
    button_init(m);
    if (m->fw_cfg)
        fw_cfg_mmio_init(m->fw_cfg);
    if (m->seed_len)
        board_entropy_add(m->seed, m->seed_len);
    boot_enter_main(info->cmdline);
}

void co_board_probe(void)
{
    const struct pci_host *host = arm_pci_host(&arm_machine);
    if (host) {
        pci_init(host);
        co_pci_probe();
    }
    mmio_sort(arm_machine.mmio, arm_machine.mmio_count);
    for (unsigned i = 0; i < arm_machine.mmio_count; i++)
        co_mmio_offer(&arm_machine.mmio[i]);
}
