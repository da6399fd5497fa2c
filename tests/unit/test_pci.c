/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * PCI enumeration on a bus made of tables: what firmware assigned stays, what it left is assigned
 * without overlap, bridges get numbers and windows, and configuration space that lies ends.
 */
#include "support.h"

#include "kernel/error.h"
#include "kernel/pci.h"
#include "kernel/pci_hw.h"

#include <string.h>

struct fn {
    uint8_t bus, devfn;
    uint8_t cfg[256];
    uint32_t bar_mask[6]; /* bits that can be written */
};
static struct fn fns[64];
static unsigned fn_count, accesses;

static uint32_t get(const struct fn *f, uint16_t off, unsigned width)
{
    uint32_t v = 0;
    memcpy(&v, f->cfg + off, width);
    return v;
}

static void set(struct fn *f, uint16_t off, unsigned width, uint32_t v)
{
    memcpy(f->cfg + off, &v, width);
}

/* The secondary bus numbers decide what a bus number reaches: `bus` of a function behind a bridge
 * is 0x80 + the bridge's index, until the bridge has a number. */
static uint8_t bus_of(const struct fn *f)
{
    return f->bus & 0x80 ? fns[f->bus & 0x7f].cfg[PCI_SECONDARY_BUS] : f->bus;
}

static struct fn *find(uint8_t bus, uint8_t devfn)
{
    for (unsigned i = 0; i < fn_count; i++)
        if (fns[i].devfn == devfn && bus_of(&fns[i]) == bus && (bus || !(fns[i].bus & 0x80)))
            return &fns[i];
    return NULL;
}

static uint32_t cfg_read(uint8_t bus, uint8_t devfn, uint16_t off, unsigned width)
{
    const struct fn *f = find(bus, devfn);
    accesses++;
    return f && off + width <= 256 ? get(f, off, width) : UINT32_MAX >> (32 - 8 * width);
}

static void cfg_write(uint8_t bus, uint8_t devfn, uint16_t off, unsigned width, uint32_t v)
{
    struct fn *f = find(bus, devfn);
    accesses++;
    if (!f || off + width > 256)
        return;
    bool bridge = (f->cfg[PCI_HEADER_TYPE] & HEADER_MASK) == HEADER_BRIDGE;
    unsigned bar = (off - PCI_BAR0) / 4u;
    if (off >= PCI_BAR0 && bar < (bridge ? 2 : 6))
        v = (v & f->bar_mask[bar]) | (get(f, off, 4) & BAR_FLAGS & ~f->bar_mask[bar]);
    set(f, off, width, v);
}

static struct pci_host host = {
    .cfg_read = cfg_read,
    .cfg_write = cfg_write,
    .last_bus = 255,
    .mmio32_base = 0xc0000000,
    .mmio32_size = 0x20000000,
    .mmio64_base = 0x800000000,
    .mmio64_size = 0x800000000,
};

static struct fn *add(uint8_t bus, uint8_t dev, bool bridge)
{
    struct fn *f = &fns[fn_count++];
    memset(f, 0, sizeof(*f));
    f->bus = bus;
    f->devfn = (uint8_t)(dev << 3);
    set(f, PCI_VENDOR, 4, 0x10001af4);
    f->cfg[PCI_HEADER_TYPE] = bridge ? HEADER_BRIDGE : 0;
    return f;
}

static void add_bar(struct fn *f, unsigned i, uint64_t size, unsigned flags, uint64_t at)
{
    f->bar_mask[i] = (uint32_t)-size & ~(uint32_t)BAR_FLAGS;
    set(f, (uint16_t)(PCI_BAR0 + 4 * i), 4, (uint32_t)at | flags);
    if (flags & BAR_64) {
        f->bar_mask[i + 1] = (uint32_t)(-size >> 32);
        set(f, (uint16_t)(PCI_BAR0 + 4 * i + 4), 4, (uint32_t)(at >> 32));
    }
}

static struct pci_dev *seen[64];
static unsigned seen_count;
static bool match(const struct pci_dev *d)
{
    (void)d;
    return true;
}
static int probe(struct pci_dev *d)
{
    seen[seen_count++] = d;
    return d->dev == 31 ? SR_EIO : 0;
}
static const struct pci_driver recorder = {"recorder", match, probe};
REGISTER(pci_driver, recorder);

static volatile uint32_t bar_memory[1024];
volatile void *mmio_map(uint64_t phys, size_t len)
{
    (void)phys;
    return len <= sizeof(bar_memory) ? bar_memory : NULL;
}
int irq_msi_message(const struct irq *irq, uint32_t requester, uint64_t *addr, uint32_t *data)
{
    (void)requester;
    *addr = 0xfee00000;
    *data = irq->vector;
    return 0;
}

static int reset(void **state)
{
    (void)state;
    fn_count = seen_count = accesses = 0;
    host.last_bus = 255;
    return 0;
}

static void run(void)
{
    pci_init(&host);
    co_pci_probe();
}

static void check_no_overlap(void)
{
    for (unsigned a = 0; a < seen_count; a++)
        for (unsigned b = 0; b <= a; b++)
            for (unsigned i = 0; i < 6; i++)
                for (unsigned j = 0; j < 6; j++) {
                    const struct pci_bar *x = &seen[a]->bar[i], *y = &seen[b]->bar[j];
                    if ((a == b && i == j) || !x->size || !y->size)
                        continue;
                    assert_true(x->phys + x->size <= y->phys || y->phys + y->size <= x->phys);
                }
}

static void test_order_and_name(void **state)
{
    (void)state;
    add(0, 31, false);
    add(0, 2, false);
    run();
    assert_int_equal(seen_count, 2);
    assert_string_equal(seen[0]->name, "00:02.0");
    assert_string_equal(seen[1]->name, "00:1f.0");
}

static void test_assigned_bars_stay(void **state)
{
    (void)state;
    struct fn *f = add(0, 1, false), *g = add(0, 2, false);
    add_bar(f, 0, 0x1000, 0, 0xc0100000);
    add_bar(f, 4, 0x4000, BAR_64 | BAR_PREFETCH, 0x900000000);
    add_bar(g, 0, 0x1000, 0, 0);
    add_bar(g, 2, 256u << 20, BAR_64 | BAR_PREFETCH, 0);
    run();
    assert_int_equal(seen[0]->bar[0].phys, 0xc0100000);
    assert_int_equal(seen[0]->bar[4].phys, 0x900000000);
    assert_int_equal(seen[0]->bar[4].size, 0x4000);
    assert_true(seen[0]->bar[4].is64 && seen[0]->bar[4].prefetch);
    assert_int_equal(seen[1]->bar[0].phys, 0xc0101000);
    assert_int_equal(seen[1]->bar[2].phys, 0x910000000);
    assert_int_equal(get(g, PCI_BAR0 + 12, 4), 9);
    check_no_overlap();
}

static void test_bridges(void **state)
{
    (void)state;
    struct fn *b = add(0, 1, true);     /* index 0 */
    struct fn *b2 = add(0x80, 0, true); /* index 1, behind the first */
    struct fn *f = add(0x81, 3, false);
    struct fn *g = add(0, 2, false);
    add_bar(f, 0, 0x1000, 0, 0);
    add_bar(f, 2, 1u << 30, BAR_64 | BAR_PREFETCH, 0);
    add_bar(g, 0, 0x1000, 0, 0);
    run();
    assert_int_equal(b->cfg[PCI_SECONDARY_BUS], 1);
    assert_int_equal(b->cfg[PCI_SUBORDINATE_BUS], 2);
    assert_int_equal(b2->cfg[PCI_SECONDARY_BUS], 2);
    assert_int_equal(b2->cfg[PCI_SUBORDINATE_BUS], 2);
    assert_int_equal(seen_count, 2);
    assert_string_equal(seen[1]->name, "02:03.0");
    for (const struct fn *x = b; x; x = x == b ? b2 : NULL) {
        uint64_t base = get(x, PCI_MEMORY_BASE, 2) << 16,
                 end = (get(x, PCI_MEMORY_LIMIT, 2) << 16) + 0x100000ull;
        assert_true(seen[1]->bar[0].phys >= base && seen[1]->bar[0].phys + 0x1000 <= end);
        assert_false(seen[0]->bar[0].phys >= base && seen[0]->bar[0].phys < end);
        base = (get(x, PCI_PREF_BASE, 2) & 0xfff0) << 16 | (uint64_t)get(x, PCI_PREF_BASE_HIGH, 4)
                                                               << 32;
        end = ((get(x, PCI_PREF_LIMIT, 2) & 0xfff0) << 16 | (uint64_t)get(x, PCI_PREF_LIMIT_HIGH, 4)
                                                                << 32) +
              0x100000;
        assert_true(seen[1]->bar[2].phys >= base && seen[1]->bar[2].phys + (1u << 30) <= end);
    }
    check_no_overlap();
}

static void test_no_room(void **state)
{
    (void)state;
    struct fn *f = add(0, 1, false), *g = add(0, 2, false);
    add_bar(f, 0, 1u << 30, 0, 0); /* larger than the window */
    add_bar(g, 0, 0x1000, 0, 0);
    run();
    assert_int_equal(seen[0]->bar[0].size, 0);
    assert_int_equal(seen[1]->bar[0].phys, 0xc0000000);
}

static void test_bridges_that_lie(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 8; i++) {
        struct fn *b = add(0, (uint8_t)(1 + i), true);
        b->cfg[PCI_SECONDARY_BUS] = (uint8_t)(i % 4); /* their own bus, and each other's */
        b->cfg[PCI_SUBORDINATE_BUS] = (uint8_t)(i % 3 * 100);
    }
    run();
    assert_true(accesses < 100000);
    reset(NULL);
    host.last_bus = 1;
    add(0, 1, true);
    add(0x80, 0, true);
    run(); /* no number for the second */
    assert_true(accesses < 10000);
}

static void test_capabilities(void **state)
{
    (void)state;
    struct fn *f = add(0, 1, false);
    f->cfg[PCI_STATUS] = STATUS_CAPABILITIES;
    f->cfg[PCI_CAPABILITIES] = 0x40;
    static const uint8_t caps[][3] = {{0x40, 9, 0x50}, {0x50, 9, 0x60}, {0x60, CAP_MSIX, 0x40}};
    for (unsigned i = 0; i < 3; i++) {
        f->cfg[caps[i][0]] = caps[i][1];
        f->cfg[caps[i][0] + 1] = caps[i][2];
    }
    run(); /* the list is a circle */
    assert_int_equal(seen[0]->msix_cap, 0x60);
    assert_int_equal(pci_find_cap(seen[0], 9, 0), 0x40);
    assert_int_equal(pci_find_cap(seen[0], 9, 0x41), 0x50);
    assert_int_equal(pci_find_cap(seen[0], 5, 0), 0);
    f->cfg[PCI_CAPABILITIES] = 0xfc;
    f->cfg[0xfd] = 0xfc;
    assert_int_equal(pci_find_cap(seen[0], 5, 0), 0);
}

static void test_msix(void **state)
{
    (void)state;
    struct fn *f = add(0, 1, false);
    f->cfg[PCI_STATUS] = STATUS_CAPABILITIES;
    f->cfg[PCI_CAPABILITIES] = 0x40;
    f->cfg[0x40] = CAP_MSIX;
    f->cfg[0x42] = 3; /* four vectors, table at 0 of BAR 1 */
    f->cfg[0x44] = 1;
    add_bar(f, 1, 0x1000, 0, 0);
    run();
    struct irq irq = {.vector = 0x33};
    assert_int_equal(pci_msix_set(seen[0], 0, &irq), SR_EINVAL);
    assert_int_equal(pci_msix_enable(seen[0]), 0);
    assert_true(get(f, 0x42, 2) & MSIX_ENABLE);
    assert_int_equal(pci_msix_set(seen[0], 3, &irq), 0);
    assert_int_equal(bar_memory[12], 0xfee00000);
    assert_int_equal(bar_memory[14], 0x33);
    assert_int_equal(bar_memory[15] & 1, 0);
    assert_int_equal(pci_msix_set(seen[0], 4, &irq), SR_EINVAL);
    set(f, 0x44, 4, 0xfff0 | 1); /* outside of the BAR */
    assert_int_equal(pci_msix_enable(seen[0]), SR_EINVAL);
    set(f, 0x44, 4, 7); /* no such BAR */
    assert_int_equal(pci_msix_enable(seen[0]), SR_EINVAL);
}

static void test_msi(void **state)
{
    (void)state;
    struct fn *f = add(0, 1, false);
    f->cfg[PCI_STATUS] = STATUS_CAPABILITIES;
    f->cfg[PCI_CAPABILITIES] = 0x40;
    run();
    struct irq irq = {.vector = 0x35};
    assert_int_equal(pci_msi_set(seen[0], &irq), SR_ENOTSUP);
    f->cfg[0x40] = CAP_MSI;
    set(f, 0x42, 2, 0x20); /* 32-bit addresses; was to have four messages */
    assert_int_equal(pci_msi_set(seen[0], &irq), 0);
    assert_int_equal(get(f, 0x42, 2), MSI_ENABLE);
    assert_int_equal(get(f, 0x44, 4), 0xfee00000);
    assert_int_equal(get(f, 0x48, 2), 0x35);
    set(f, 0x42, 2, MSI_64);
    set(f, 0x48, 4, 0xffffffff);
    assert_int_equal(pci_msi_set(seen[0], &irq), 0);
    assert_int_equal(get(f, 0x48, 4), 0);
    assert_int_equal(get(f, 0x4c, 2), 0x35);
}

/* In any other order than by size, alignment leaves gaps, and the window is too small. */
static void test_sorted(void **state)
{
    (void)state;
    struct fn *f = add(0, 1, false), *g = add(0, 2, false), *h = add(0, 3, false);
    add_bar(f, 0, 0x1000, 0, 0);
    add_bar(f, 1, 0x4000, BAR_64, 0);
    add_bar(g, 0, 0x2000, 0, 0);
    add_bar(g, 5, 0x8000, 0, 0);
    add_bar(h, 0, 0x1000, 0, 0);
    host.mmio32_size = 0x10000;
    host.mmio64_size = 0;
    run();
    host.mmio32_size = 0x20000000;
    host.mmio64_size = 0x800000000;
    for (unsigned i = 0; i < seen_count; i++)
        for (unsigned j = 0; j < 6; j++)
            assert_true(!seen[i]->bar[j].size || seen[i]->bar[j].phys >= host.mmio32_base);
    assert_int_equal(seen[0]->bar[0].size + seen[0]->bar[1].size + seen[1]->bar[0].size +
                         seen[1]->bar[5].size + seen[2]->bar[0].size,
                     0x10000);
    check_no_overlap();
}

static unsigned routed;
int irq_route_gsi(const struct irq *irq, unsigned gsi, bool level, bool low)
{
    assert_true(level && !low);
    (void)irq;
    routed = gsi;
    return 0;
}

static void test_intx(void **state)
{
    (void)state;
    struct fn *b = add(0, 5, true), *f = add(0x80, 2, false), *g = add(0, 3, false);
    (void)b;
    f->cfg[PCI_INTERRUPT_PIN] = 1;
    g->cfg[PCI_INTERRUPT_PIN] = 4;
    set(g, PCI_COMMAND, 2, COMMAND_NO_INTX | COMMAND_MASTER);
    run();
    struct irq irq = {.vector = 0x36};
    assert_int_equal(pci_intx_set(seen[0], &irq), SR_ENOTSUP);
    host.intx = 35;
    assert_int_equal(pci_intx_set(seen[0], &irq), 0);
    assert_int_equal(routed, 35 + (3 + 3) % 4);
    assert_int_equal(get(g, PCI_COMMAND, 2), COMMAND_MASTER);
    assert_int_equal(pci_intx_set(seen[1], &irq), 0);
    assert_int_equal(routed, 35 + (0 + 2 + 5) % 4);
    for (unsigned pin = 0; pin < 256; pin += 5) {
        g->cfg[PCI_INTERRUPT_PIN] = (uint8_t)pin;
        assert_int_equal(pci_intx_set(seen[0], &irq), SR_ENOTSUP);
    }
    host.intx = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_order_and_name, reset),
        cmocka_unit_test_setup(test_assigned_bars_stay, reset),
        cmocka_unit_test_setup(test_bridges, reset),
        cmocka_unit_test_setup(test_no_room, reset),
        cmocka_unit_test_setup(test_bridges_that_lie, reset),
        cmocka_unit_test_setup(test_capabilities, reset),
        cmocka_unit_test_setup(test_msix, reset),
        cmocka_unit_test_setup(test_msi, reset),
        cmocka_unit_test_setup(test_sorted, reset),
        cmocka_unit_test_setup(test_intx, reset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
