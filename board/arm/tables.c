/* SPDX-License-Identifier: BSD-2-Clause */
/* ACPI's words for an Arm machine (board/acpi.c) as a struct machine. RAM was told by UEFI. */
#include "board/arm/arm.h"

#include "board/acpi.h"
#include "board/acpi_map.h"
#include "kernel/error.h"

static void copy_gic(struct gic_info *g, const struct acpi_info *a)
{
    g->version = a->arm.gic;
    g->dist = a->arm.dist;
    g->cpu = a->arm.cpu;
    g->v2m = a->arm.v2m;
    g->its = a->arm.its;
    for (unsigned i = 0; i < MIN(a->arm.redists, (unsigned)GIC_MAX_REDISTS); i++) {
        const struct acpi_window *w = &a->arm.redist[i];
        g->redist[g->redist_count++] = (struct phys_range){w->base, w->base + w->size};
    }
}

static void copy_mmio(struct machine *m, const struct acpi_info *a)
{
    for (unsigned i = 0; i < MIN(a->virtio_count, (unsigned)MACHINE_MAX_MMIO); i++) {
        const struct acpi_device *d = &a->virtio[i];
        m->mmio[m->mmio_count++] = (struct mmio_dev){.compatible = MMIO_VIRTIO,
                                                     .phys = d->base,
                                                     .len = (size_t)d->len,
                                                     .gsi = d->gsi,
                                                     .level = d->level,
                                                     .low = d->low};
    }
}

int tables_read(struct machine *m, uint64_t rsdp)
{
    static struct acpi_info a; /* too large for the stack */
    int rc = acpi_parse(&a, rsdp, &acpi_physical);
    if (rc)
        return rc;
    m->cpus = a.cpus;
    m->pl011 = a.arm.pl011;
    m->timer_irq = a.arm.timer_gsi;
    m->psci = !a.arm.psci      ? PSCI_CONDUIT_NONE
              : a.arm.psci_hvc ? PSCI_CONDUIT_HVC
                               : PSCI_CONDUIT_SMC;
    m->button.ged = a.ged.base;
    m->fw_cfg = a.arm.fw_cfg.base;
    if (a.ecam.base) /* MCFG's is that of bus 0 */
        m->pci = (struct machine_pci){
            .ecam = a.ecam.base + ((uint64_t)a.ecam_first << 20),
            .first_bus = a.ecam_first,
            .last_bus = a.ecam_last,
            .mmio32 = {a.mmio32.base, a.mmio32.size},
            .mmio64 = {a.mmio64.base, a.mmio64.size},
        };
    copy_gic(&m->gic, &a);
    copy_mmio(m, &a);
    return 0;
}
