/* SPDX-License-Identifier: BSD-2-Clause */
/* Configuration access through memory, for every board; see the header. */
#include "board/ecam.h"

#define ECAM_BUS 0x100000u

static uint64_t base; /* of bus 0 */
static uint8_t first, last;
static volatile uint8_t *bus_map[256];

static volatile uint8_t *ecam_at(uint8_t bus, uint8_t devfn, uint16_t off)
{
    if (bus < first || bus > last)
        return NULL;
    if (!bus_map[bus])
        bus_map[bus] = mmio_map(base + (uint64_t)bus * ECAM_BUS, ECAM_BUS);
    return bus_map[bus] ? bus_map[bus] + ((uint32_t)devfn << 12 | (off & 0xfff)) : NULL;
}

static uint32_t ecam_read(uint8_t bus, uint8_t devfn, uint16_t off, unsigned width)
{
    volatile uint8_t *p = ecam_at(bus, devfn, off);
    if (!p)
        return UINT32_MAX;
    return width == 1   ? *p
           : width == 2 ? *(volatile uint16_t *)(volatile void *)p
                        : *(volatile uint32_t *)(volatile void *)p;
}

static void ecam_write(uint8_t bus, uint8_t devfn, uint16_t off, unsigned width, uint32_t v)
{
    volatile uint8_t *p = ecam_at(bus, devfn, off);
    if (!p)
        return;
    if (width == 1)
        *p = (uint8_t)v;
    else if (width == 2)
        *(volatile uint16_t *)(volatile void *)p = (uint16_t)v;
    else
        *(volatile uint32_t *)(volatile void *)p = v;
}

void ecam_use(struct pci_host *h, uint64_t base_of_bus0, uint8_t first_bus, uint8_t last_bus)
{
    base = base_of_bus0;
    first = first_bus;
    last = last_bus;
    h->cfg_read = ecam_read;
    h->cfg_write = ecam_write;
    h->first_bus = first_bus;
    h->last_bus = last_bus;
}
