/* SPDX-License-Identifier: BSD-2-Clause */
/* Devices without a bus: the board has a list of them, each is offered to the drivers. */
#include "kernel/error.h"
#include "kernel/log.h"
#include "kernel/pci.h"

static void set_name(struct mmio_dev *d)
{
    static const char prefix[] = "mmio ";
    char *p = d->name;
    for (const char *s = prefix; *s; s++)
        *p++ = *s;
    int shift = 28;
    while (shift < 60 && d->phys >> (shift + 4))
        shift += 4;
    for (; shift >= 0; shift -= 4)
        *p++ = "0123456789abcdef"[d->phys >> shift & 15];
    *p = 0;
}

void mmio_sort(struct mmio_dev *d, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        set_name(&d[i]);
        for (unsigned j = i; j && d[j].phys < d[j - 1].phys; j--) {
            struct mmio_dev t = d[j];
            d[j] = d[j - 1];
            d[j - 1] = t;
        }
    }
}

void co_mmio_offer(const struct mmio_dev *d)
{
    registry_for_each (mmio_driver, it) {
        int r = (*it)->probe(d);
        if (r == SR_ENODEV)
            continue;
        if (r < 0)
            log_line("mmio", "%s: %s: %s", d->name, (*it)->name, sr_strerror(r));
        return;
    }
}
