/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * PCI: enumerate, give addresses to BARs and buses that firmware left without, offer to drivers.
 *
 * All access goes through the board's struct pci_host, so a table in memory is a bus to the tests.
 *
 * pci_init makes two passes:
 *   scan     depth first from the first bus. Reads each function, sizes its BARs, numbers bridges
 *            that have no secondary bus. A bus number is only ever larger than its parent's, and no
 *            bus is scanned twice, so a bridge that lies cannot make this run for ever.
 *   assign   only when something has no address. Two marks, mem32 and mem64, start above everything
 *            that firmware did assign inside the board's windows and only rise; the BARs of a bus
 *            take from them in order of size, largest first. Below a bridge the
 *            marks are rounded to 1 MiB on entry and on exit, and what lies between becomes the
 *            bridge's window: mem32 its memory window, mem64 its prefetchable one.
 *
 * Which mark: 64-bit BARs go to mem64 on the root bus when they are large, below a bridge when they
 * are prefetchable; everything else to mem32. What does not fit stays off, with a log line.
 *
 * Missing on purpose: I/O BARs (our drivers do not use them), hot plug, several segments,
 * resizable BARs, windows of bridges that firmware has set up for fewer devices than there are.
 */
#include "kernel/pci.h"
#include "kernel/error.h"
#include "kernel/fault.h"
#include "kernel/log.h"
#include "kernel/pci_hw.h"
#include <string.h>

#define ONE_MIB   (1ull << 20)
#define LARGE_BAR (64 * ONE_MIB)
#define MAX_CAPS  48u /* 4 bytes each fill the space */

struct bridge {
    struct pci_dev dev; /* in the tree order, not in `devices` */
    uint8_t secondary, subordinate;
    bool numbered_by_us;
    struct bridge *next;
};

static const struct pci_host *host;
static struct list devices = LIST_INIT(devices);
static struct bridge *bridges;
static uint64_t mem32, mem64, mem32_end, mem64_end;
static uint8_t scanned[256 / 8];
static unsigned last_bus; /* highest number in use */
static bool unassigned;

static uint8_t devfn(const struct pci_dev *d)
{
    return (uint8_t)(d->dev << 3 | d->fn);
}

uint32_t pci_read(const struct pci_dev *d, uint16_t off, unsigned width)
{
    return host->cfg_read(d->bus, devfn(d), off, width);
}

void pci_write(const struct pci_dev *d, uint16_t off, unsigned width, uint32_t v)
{
    host->cfg_write(d->bus, devfn(d), off, width, v);
}

uint16_t pci_find_cap(const struct pci_dev *d, uint8_t id, uint16_t from)
{
    if (!(pci_read(d, PCI_STATUS, 2) & STATUS_CAPABILITIES))
        return 0;
    uint16_t at = pci_read(d, PCI_CAPABILITIES, 1) & 0xfc;
    bool started = from == 0;
    for (unsigned i = 0; at >= 0x40 && i < MAX_CAPS; i++) {
        uint32_t cap = pci_read(d, at, 2);
        if (at >= from)
            started = true;
        if (started && (cap & 0xff) == id)
            return at;
        at = cap >> 8 & 0xfc;
    }
    return 0;
}

/* ---- scan ---- */

/* Sizes the BAR at index i; returns how many registers it takes. Decoding is off meanwhile. */
static unsigned bar_read(struct pci_dev *d, unsigned i, unsigned count)
{
    struct pci_bar *b = &d->bar[i];
    uint16_t off = (uint16_t)(PCI_BAR0 + 4 * i);
    uint32_t old = pci_read(d, off, 4);
    pci_write(d, off, 4, UINT32_MAX);
    uint32_t mask = pci_read(d, off, 4);
    pci_write(d, off, 4, old);
    if (!mask || mask == UINT32_MAX || mask & BAR_IO)
        return 1;
    uint64_t size_mask = mask & ~(uint32_t)BAR_FLAGS;
    b->phys = old & ~(uint32_t)BAR_FLAGS;
    b->prefetch = mask & BAR_PREFETCH;
    b->is64 = (mask & BAR_TYPE) == BAR_64 && i + 1 < count;
    if (b->is64) {
        uint32_t high = pci_read(d, off + 4, 4);
        pci_write(d, off + 4, 4, UINT32_MAX);
        size_mask |= (uint64_t)pci_read(d, off + 4, 4) << 32;
        pci_write(d, off + 4, 4, high);
        b->phys |= (uint64_t)high << 32;
    } else {
        size_mask |= 0xffffffffull << 32;
    }
    b->size = -size_mask;
    if (!is_pow2(b->size)) {
        log_line("pci", "%s: BAR %u has no sensible size", d->name, i);
        *b = (struct pci_bar){0};
    }
    return b->is64 ? 2 : 1;
}

static void bars_read(struct pci_dev *d, unsigned count)
{
    uint32_t command = pci_read(d, PCI_COMMAND, 2);
    pci_write(d, PCI_COMMAND, 2, command & ~(uint32_t)(COMMAND_IO | COMMAND_MEMORY));
    for (unsigned i = 0; i < count;)
        i += bar_read(d, i, count);
    pci_write(d, PCI_COMMAND, 2, command);
    for (unsigned i = 0; i < count; i++)
        if (d->bar[i].size && !d->bar[i].phys)
            unassigned = true;
}

static void set_name(struct pci_dev *d)
{
    static const char hex[] = "0123456789abcdef";
    const char name[8] = {hex[d->bus >> 4],
                          hex[d->bus & 15],
                          ':',
                          hex[d->dev >> 4],
                          hex[d->dev & 15],
                          '.',
                          hex[d->fn],
                          0};
    memcpy(d->name, name, sizeof(name));
}

static void scan_bus(uint8_t bus);

static void scan_bridge(struct bridge *b)
{
    struct pci_dev *d = &b->dev;
    uint32_t buses = pci_read(d, PCI_PRIMARY_BUS, 4);
    b->secondary = buses >> 8 & 0xff;
    b->subordinate = buses >> 16 & 0xff;
    if (b->secondary <= d->bus || b->subordinate < b->secondary ||
        b->subordinate > host->last_bus) {
        if (last_bus >= host->last_bus) {
            log_line("pci", "%s: no bus number left", d->name);
            return;
        }
        b->numbered_by_us = unassigned = true;
        b->secondary = (uint8_t)(last_bus + 1);
        b->subordinate = host->last_bus;
        buses = (buses & 0xff000000) | (uint32_t)b->subordinate << 16 |
                (uint32_t)b->secondary << 8 | d->bus;
        pci_write(d, PCI_PRIMARY_BUS, 4, buses);
    }
    last_bus = MAX(last_bus, b->secondary);
    scan_bus(b->secondary);
    if (b->numbered_by_us) {
        b->subordinate = (uint8_t)last_bus;
        pci_write(d, PCI_SUBORDINATE_BUS, 1, b->subordinate);
    } else {
        last_bus = MAX(last_bus, b->subordinate);
    }
}

static void identify(struct pci_dev *d, uint8_t bus, uint8_t dev, uint8_t fn, uint32_t id)
{
    d->bus = bus;
    d->dev = dev;
    d->fn = fn;
    d->vendor = (uint16_t)id;
    d->device = (uint16_t)(id >> 16);
    d->class_rev = pci_read(d, PCI_CLASS_REV, 4);
    set_name(d);
}

static void add_bridge(uint8_t bus, uint8_t dev, uint8_t fn, uint32_t id)
{
    struct bridge *b = sr_calloc(1, sizeof(*b));
    if (!b) {
        log_line("pci", "no memory for a bridge");
        return;
    }
    identify(&b->dev, bus, dev, fn, id);
    bars_read(&b->dev, 2);
    b->next = bridges;
    bridges = b;
    scan_bridge(b);
}

static void add_function(uint8_t bus, uint8_t dev, uint8_t fn, uint32_t id)
{
    struct pci_dev *d = sr_calloc(1, sizeof(*d));
    if (!d) {
        log_line("pci", "no memory for a function");
        return;
    }
    identify(d, bus, dev, fn, id);
    uint32_t subsys = pci_read(d, PCI_SUBSYS_VENDOR, 4);
    d->subsys_vendor = (uint16_t)subsys;
    d->subsys = (uint16_t)(subsys >> 16);
    bars_read(d, 6);
    d->msix_cap = pci_find_cap(d, CAP_MSIX, 0);
    if (d->msix_cap)
        d->msix_vectors = (pci_read(d, d->msix_cap + MSIX_CONTROL, 2) & MSIX_SIZE) + 1;
    list_append(&devices, &d->link);
}

static void scan_device(uint8_t bus, uint8_t dev)
{
    unsigned functions = 1;
    for (uint8_t fn = 0; fn < functions; fn++) {
        struct pci_dev probe = {.bus = bus, .dev = dev, .fn = fn};
        uint32_t id = pci_read(&probe, PCI_VENDOR, 4);
        if ((id & 0xffff) == 0xffff || !id)
            continue;
        uint32_t header = pci_read(&probe, PCI_HEADER_TYPE, 1);
        if (!fn && header & HEADER_MULTI)
            functions = 8;
        if ((header & HEADER_MASK) == HEADER_BRIDGE)
            add_bridge(bus, dev, fn, id);
        else if ((header & HEADER_MASK) == 0)
            add_function(bus, dev, fn, id);
    }
}

static void scan_bus(uint8_t bus)
{
    if (scanned[bus / 8] & 1u << bus % 8)
        return;
    scanned[bus / 8] |= (uint8_t)(1u << bus % 8);
    for (uint8_t dev = 0; dev < 32; dev++)
        scan_device(bus, dev);
}

/* ---- assign ---- */

static void raise_mark(uint64_t *mark, uint64_t end, const struct pci_bar *b)
{
    if (b->phys && b->phys >= *mark && b->phys < end && b->size <= end - b->phys)
        *mark = b->phys + b->size;
}

/* The marks rise above whatever firmware has assigned. */
static void raise_marks(const struct pci_dev *d)
{
    for (unsigned i = 0; i < 6; i++) {
        if (!d->bar[i].size)
            continue;
        raise_mark(&mem32, mem32_end, &d->bar[i]);
        raise_mark(&mem64, mem64_end, &d->bar[i]);
    }
}

static bool take(uint64_t *mark, uint64_t end, struct pci_bar *b)
{
    uint64_t at = align_up(*mark, b->size);
    if (at < *mark || !range_ok(at, b->size, end))
        return false;
    b->phys = at;
    *mark = at + b->size;
    return true;
}

static void bar_assign(struct pci_dev *d, unsigned i, bool below_bridge)
{
    struct pci_bar *b = &d->bar[i];
    bool high = b->is64 && (below_bridge ? b->prefetch : b->size >= LARGE_BAR);
    bool done = high && take(&mem64, mem64_end, b);
    if (!done)
        done = take(&mem32, mem32_end, b);
    if (!done && b->is64 && !below_bridge)
        done = take(&mem64, mem64_end, b);
    if (!done) {
        log_line("pci", "%s: no address for BAR %u", d->name, i);
        b->size = 0;
        return;
    }
    pci_write(d, (uint16_t)(PCI_BAR0 + 4 * i), 4, (uint32_t)b->phys);
    if (b->is64)
        pci_write(d, (uint16_t)(PCI_BAR0 + 4 * i + 4), 4, (uint32_t)(b->phys >> 32));
}

static void assign_bus(uint8_t bus, bool below_bridge);

/* A window is [base, end), whole MiB; empty windows have a limit below their base. */
static void bridge_windows(const struct pci_dev *d, uint64_t b32, uint64_t e32, uint64_t b64,
                           uint64_t e64)
{
    uint64_t l32 = e32 > b32 ? e32 - 1 : 0, l64 = e64 > b64 ? e64 - 1 : 0;
    b32 = e32 > b32 ? b32 : ONE_MIB;
    b64 = e64 > b64 ? b64 : ONE_MIB;
    pci_write(d, PCI_MEMORY_BASE, 2, (uint32_t)(b32 >> 16 & 0xfff0));
    pci_write(d, PCI_MEMORY_LIMIT, 2, (uint32_t)(l32 >> 16 & 0xfff0));
    pci_write(d, PCI_PREF_BASE_HIGH, 4, (uint32_t)(b64 >> 32));
    pci_write(d, PCI_PREF_LIMIT_HIGH, 4, (uint32_t)(l64 >> 32));
    pci_write(d, PCI_PREF_BASE, 2, (uint32_t)(b64 >> 16 & 0xfff0));
    pci_write(d, PCI_PREF_LIMIT, 2, (uint32_t)(l64 >> 16 & 0xfff0));
    pci_write(d, PCI_COMMAND, 2, pci_read(d, PCI_COMMAND, 2) | COMMAND_MEMORY | COMMAND_MASTER);
}

static bool bus_needs_addresses(uint8_t first, uint8_t last)
{
    list_for_each (d, &devices, struct pci_dev, link)
        for (unsigned i = 0; i < 6; i++)
            if (d->bus >= first && d->bus <= last && d->bar[i].size && !d->bar[i].phys)
                return true;
    return false;
}

static void assign_bridge(struct bridge *b)
{
    for (unsigned i = 0; i < 2; i++)
        if (b->dev.bar[i].size && !b->dev.bar[i].phys)
            bar_assign(&b->dev, i, false);
    if (!b->numbered_by_us && !bus_needs_addresses(b->secondary, b->subordinate))
        return;
    mem32 = align_up(mem32, ONE_MIB);
    mem64 = align_up(mem64, ONE_MIB);
    uint64_t b32 = mem32, b64 = mem64;
    assign_bus(b->secondary, true);
    mem32 = align_up(mem32, ONE_MIB);
    mem64 = align_up(mem64, ONE_MIB);
    bridge_windows(&b->dev, b32, mem32, b64, mem64);
}

/* Largest first: then alignment leaves no gaps. What found no room has size 0. */
static bool assign_largest(uint8_t bus, bool below_bridge)
{
    struct pci_dev *best = NULL;
    unsigned bar = 0;
    list_for_each (d, &devices, struct pci_dev, link)
        for (unsigned i = 0; i < 6 && d->bus == bus; i++)
            if (!d->bar[i].phys && d->bar[i].size > (best ? best->bar[bar].size : 0)) {
                best = d;
                bar = i;
            }
    if (best)
        bar_assign(best, bar, below_bridge);
    return best != NULL;
}

static void assign_bus(uint8_t bus, bool below_bridge)
{
    while (assign_largest(bus, below_bridge))
        ;
    for (struct bridge *b = bridges; b; b = b->next)
        if (b->dev.bus == bus && b->secondary > bus)
            assign_bridge(b);
}

/* What an earlier scan found; only tests scan twice. */
static void forget(void)
{
    list_for_each_safe (d, &devices, struct pci_dev, link)
        sr_free(d);
    list_init(&devices);
    while (bridges) {
        struct bridge *b = bridges;
        bridges = b->next;
        sr_free(b);
    }
}

void pci_init(const struct pci_host *h)
{
    host = h;
    forget();
    memset(scanned, 0, sizeof(scanned));
    unassigned = false;
    last_bus = h->first_bus;
    scan_bus(h->first_bus);
    if (!unassigned)
        return;
    mem32 = h->mmio32_base;
    mem32_end = h->mmio32_base + h->mmio32_size;
    mem64 = h->mmio64_base;
    mem64_end = h->mmio64_base + h->mmio64_size;
    list_for_each (d, &devices, struct pci_dev, link)
        raise_marks(d);
    for (const struct bridge *b = bridges; b; b = b->next)
        raise_marks(&b->dev);
    assign_bus(h->first_bus, false);
}

/* ---- for drivers ---- */

static const struct pci_driver *find_driver(const struct pci_dev *d)
{
    registry_for_each (pci_driver, it)
        if ((*it)->match(d))
            return *it;
    return NULL;
}

/* Address order: buses behind bridges were appended where their bridge was found. */
static struct pci_dev *next_device(const struct pci_dev *after)
{
    struct pci_dev *best = NULL;
    unsigned floor = after ? (unsigned)after->bus << 8 | devfn(after) : 0, least = 0x10000;
    list_for_each (d, &devices, struct pci_dev, link) {
        unsigned a = (unsigned)d->bus << 8 | devfn(d);
        if ((!after || a > floor) && a < least) {
            best = d;
            least = a;
        }
    }
    return best;
}

void co_pci_probe(void)
{
    for (struct pci_dev *d = next_device(NULL); d; d = next_device(d)) {
        const struct pci_driver *drv = find_driver(d);
        int r = drv ? drv->probe(d) : 0;
        if (r < 0)
            log_line("pci", "%s: %s: %s", d->name, drv->name, sr_strerror(r));
    }
}

volatile void *pci_bar_map(struct pci_dev *d, unsigned bar)
{
    struct pci_bar *b = bar < ARRAY_LEN(d->bar) ? &d->bar[bar] : NULL;
    if (!b || !b->size || !b->phys)
        return NULL;
    if (!b->mapped)
        b->mapped = mmio_map(b->phys, b->size);
    return b->mapped;
}

void pci_enable(struct pci_dev *d)
{
    uint32_t command = pci_read(d, PCI_COMMAND, 2);
    pci_write(d, PCI_COMMAND, 2, command | COMMAND_MEMORY | COMMAND_MASTER | COMMAND_NO_INTX);
}

static uint32_t requester(const struct pci_dev *d)
{
    return (uint32_t)d->bus << 8 | devfn(d);
}

int pci_msix_enable(struct pci_dev *d)
{
    if (!d->msix_cap)
        return SR_ENOTSUP;
    uint32_t where = pci_read(d, d->msix_cap + MSIX_TABLE, 4), off = where & ~7u;
    if ((where & 7) >= 6 || !range_ok(off, (uint64_t)d->msix_vectors * 16, d->bar[where & 7].size))
        return SR_EINVAL;
    volatile char *bar = pci_bar_map(d, where & 7);
    if (!bar)
        return SR_ENOMEM;
    d->msix = (volatile uint32_t *)(bar + off);
    uint32_t control = pci_read(d, d->msix_cap + MSIX_CONTROL, 2);
    control = (control | MSIX_ENABLE) & ~(uint32_t)MSIX_MASK_ALL; /* entries are masked by reset */
    pci_write(d, d->msix_cap + MSIX_CONTROL, 2, control);
    return 0;
}

int pci_msix_set(struct pci_dev *d, unsigned entry, const struct irq *irq)
{
    uint64_t addr;
    uint32_t data;
    if (!d->msix || entry >= d->msix_vectors)
        return SR_EINVAL;
    int r = irq_msi_message(irq, requester(d), &addr, &data);
    if (r)
        return r;
    volatile uint32_t *e = d->msix + 4 * (size_t)entry;
    e[3] |= MSIX_ENTRY_MASKED; /* PCI 3.0, 6.8.2: change an entry only while it is masked */
    e[0] = (uint32_t)addr;
    e[1] = (uint32_t)(addr >> 32);
    e[2] = data;
    e[3] &= ~(uint32_t)MSIX_ENTRY_MASKED;
    return 0;
}

int pci_msi_set(struct pci_dev *d, const struct irq *irq)
{
    uint64_t addr;
    uint32_t data;
    uint16_t cap = pci_find_cap(d, CAP_MSI, 0);
    if (!cap)
        return SR_ENOTSUP;
    int r = irq_msi_message(irq, requester(d), &addr, &data);
    if (r)
        return r;
    uint32_t control = pci_read(d, cap + MSI_CONTROL, 2) & ~(uint32_t)(MSI_ENABLE | MSI_COUNT);
    uint16_t at = cap + MSI_ADDRESS;
    if (!(control & MSI_64) && addr >> 32)
        return SR_ENOTSUP;
    pci_write(d, cap + MSI_CONTROL, 2, control);
    pci_write(d, at, 4, (uint32_t)addr);
    if (control & MSI_64)
        pci_write(d, at += 4, 4, (uint32_t)(addr >> 32));
    pci_write(d, at + 4, 2, data);
    pci_write(d, cap + MSI_CONTROL, 2, control | MSI_ENABLE);
    return 0;
}

static const struct pci_dev *bridge_to(uint8_t bus)
{
    for (const struct bridge *b = bridges; b; b = b->next)
        if (b->secondary == bus && b->dev.bus < bus)
            return &b->dev;
    return NULL;
}

int pci_intx_set(struct pci_dev *d, const struct irq *irq)
{
    unsigned pin = pci_read(d, PCI_INTERRUPT_PIN, 1) - 1u;
    if (!host->intx || pin > 3)
        return SR_ENOTSUP;
    const struct pci_dev *at = d;
    for (; at && at->bus != host->first_bus; at = bridge_to(at->bus)) /* bus numbers fall */
        pin = (pin + at->dev) % 4;
    if (!at)
        return SR_ENOTSUP;
    int rc = irq_route_gsi(irq, host->intx + (pin + at->dev) % 4, true, false);
    if (rc)
        return rc;
    if (d->msix_cap) {
        uint32_t control = pci_read(d, d->msix_cap + MSIX_CONTROL, 2);
        pci_write(d, d->msix_cap + MSIX_CONTROL, 2, control & ~(uint32_t)MSIX_ENABLE);
    }
    pci_write(d, PCI_COMMAND, 2, pci_read(d, PCI_COMMAND, 2) & ~(uint32_t)COMMAND_NO_INTX);
    return 0;
}
