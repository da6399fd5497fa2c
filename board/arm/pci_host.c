/* SPDX-License-Identifier: BSD-2-Clause */
/* PCI by ECAM, as a generic host bridge gives it; no firmware has assigned anything when we come
 * without UEFI. */
#include "board/arm/arm.h"
#include "board/ecam.h"

const struct pci_host *arm_pci_host(const struct machine *m)
{
    static struct pci_host host;
    const struct machine_pci *p = &m->pci;
    if (!p->ecam)
        return NULL;
    ecam_use(&host, p->ecam - ((uint64_t)p->first_bus << 20), p->first_bus, p->last_bus);
    host.mmio32_base = p->mmio32.base;
    host.mmio32_size = p->mmio32.len;
    host.mmio64_base = p->mmio64.base;
    host.mmio64_size = p->mmio64.len;
    host.intx = p->intx;
    return &host;
}
