/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The PCI and MMIO transports in front of registers that are plain memory: which capability lists
 * are usable, what is refused, and what the driver writes where.
 */
#include "tests/unit/support.h"

#include "kernel/kernel.h"
#include "kernel/pci.h"
#include "virtio/mmio_spec.h"
#include "virtio/pci_spec.h"
#include "virtio/virtio.h"
#include <stdlib.h>
#include <string.h>

#define BAR 4096u

static uint8_t config[256], *bar[6], *page;
static bool bus_ready;

static uint32_t cfg_read(uint8_t bus, uint8_t devfn, uint16_t off, unsigned width)
{
    uint32_t v = 0;
    (void)bus, (void)devfn;
    if (!bus_ready)
        return UINT32_MAX;
    assert_true(range_ok(off, width, sizeof(config)));
    memcpy(&v, config + off, width);
    return v;
}

static void cfg_write(uint8_t bus, uint8_t devfn, uint16_t off, unsigned width, uint32_t v)
{
    (void)bus, (void)devfn;
    memcpy(config + off, &v, width);
}

/* BAR n is at n + 1 MiB; the page of an MMIO device at 16 MiB. */
volatile void *mmio_map(uint64_t phys, size_t len)
{
    assert_true(len <= BAR);
    return phys >> 20 == 16 ? page : bar[(phys >> 20) - 1];
}

int irq_route_gsi(const struct irq *irq, unsigned gsi, bool level, bool low)
{
    (void)irq, (void)level, (void)low;
    assert_int_equal(gsi, 5);
    return 0;
}

static void cap(uint8_t at, uint8_t next, uint8_t type, uint8_t in, uint32_t off, uint32_t len)
{
    uint8_t *c = config + at;
    const uint8_t head[] = {9, next, type == VIRTIO_PCI_CAP_NOTIFY ? 20 : 16, type, in};
    memcpy(c, head, sizeof(head));
    le32_set((le32 *)(void *)(c + VIRTIO_PCI_CAP_OFFSET), off);
    le32_set((le32 *)(void *)(c + VIRTIO_PCI_CAP_LENGTH), len);
    if (type == VIRTIO_PCI_CAP_NOTIFY)
        le32_set((le32 *)(void *)(c + VIRTIO_PCI_CAP_MULTIPLIER), 4);
}

static struct pci_dev dev;

/* An entropy device that offers everything, with one queue of 8. */
static void prepare(void)
{
    memset(config, 0, sizeof(config));
    dev = (struct pci_dev){.vendor = 0x1af4, .device = 0x1044, .msix_cap = 0x40, .name = "00:01.0"};
    dev.msix_vectors = 3;
    for (unsigned i = 0; i < 6; i++) {
        dev.bar[i] = (struct pci_bar){.phys = (i + 1ull) << 20, .size = BAR};
        memset(bar[i], 0, BAR);
    }
    memset(bar[0] + VIRTIO_PCI_DEVICE_FEATURE, 0xff, 4);
    bar[0][VIRTIO_PCI_NUM_QUEUES] = 1;
    bar[0][VIRTIO_PCI_QUEUE_SIZE] = 8;
    bar[0][VIRTIO_PCI_QUEUE_NOTIFY_OFF] = 3;
    config[6] = 0x10;
    config[0x34] = 0x50;
    config[0x40] = 0x11;
    config[0x44] = 5; /* the table is in BAR 5 */
    cap(0x50, 0x60, VIRTIO_PCI_CAP_COMMON, 0, 0, VIRTIO_PCI_COMMON_SIZE);
    cap(0x60, 0x88, VIRTIO_PCI_CAP_NOTIFY, 1, 16, 64);
    cap(0x74, 0x90, 99, 1, 16, 64); /* not in the list */
    cap(0x90, 0, VIRTIO_PCI_CAP_ISR, 2, 3, 1);
    config[0x88] = 5; /* somebody else's capability */
    config[0x89] = 0x90;
}

static int co_try(void)
{
    int rc = 1;
    registry_for_each (pci_driver, it)
        if ((*it)->match(&dev))
            rc = (*it)->probe(&dev);
    if (dev.driver_data) {
        co_virtio_remove(dev.driver_data);
        free(dev.driver_data);
    }
    return rc;
}

static uint32_t reg(unsigned off, unsigned width)
{
    uint32_t v = 0;
    memcpy(&v, bar[0] + off, width);
    return v;
}

static void co_good(void)
{
    prepare();
    assert_int_equal(co_try(), 0);
    assert_int_equal(reg(VIRTIO_PCI_QUEUE_ENABLE, 2), 1);
    assert_int_equal(reg(VIRTIO_PCI_QUEUE_SIZE, 2), 1); /* this driver wants one entry */
    assert_int_equal(reg(VIRTIO_PCI_CONFIG_VECTOR, 2), 0);
    assert_int_equal(reg(VIRTIO_PCI_QUEUE_VECTOR, 2), 1);
    assert_int_not_equal(reg(VIRTIO_PCI_QUEUE_DESC, 4), 0);
    assert_int_equal(reg(VIRTIO_PCI_STATUS, 1), 0); /* removed again */
    prepare();
    dev.device = 0x1005; /* transitional: the type is in the subsystem id */
    dev.subsys = VIRTIO_ID_ENTROPY;
    assert_int_equal(co_try(), 0);
    prepare();
    dev.msix_vectors = 1; /* all share it */
    assert_int_equal(co_try(), 0);
    assert_int_equal(reg(VIRTIO_PCI_QUEUE_VECTOR, 2), 0);
    prepare();
    cap(0xb0, 0, VIRTIO_PCI_CAP_COMMON, 0, 256, 56); /* a second one is not looked at */
    config[0x91] = 0xb0;
    assert_int_equal(co_try(), 0);
    assert_int_equal(reg(VIRTIO_PCI_QUEUE_ENABLE, 2), 1);
    prepare();
    cap(0x50, 0xa0, VIRTIO_PCI_CAP_COMMON, 6, 0, 56); /* not usable; the next of its kind is */
    cap(0xa0, 0x60, VIRTIO_PCI_CAP_COMMON, 0, 0, 56);
    assert_int_equal(co_try(), 0);
    prepare();
    dev.device = 0x1040 + 60; /* no driver: said, and no error */
    assert_int_equal(co_try(), 0);
    assert_null(dev.driver_data);
}

static void co_bad_caps(void)
{
    static const struct {
        uint8_t at, type, in;
        uint32_t off, len;
    } t[] = {
        {0x50, 1, 6, 0, 56},          {0x50, 1, 255, 0, 56},        {0x50, 1, 0, 0, 55},
        {0x50, 1, 0, 2, 56},          {0x50, 1, 0, BAR, 56},        {0x50, 1, 0, BAR - 52, 56},
        {0x50, 1, 0, 0xfffffff0, 56}, {0x50, 1, 0, 16, UINT32_MAX}, {0x50, 0, 0, 0, 56},
        {0x60, 2, 1, 0, 1},           {0x60, 2, 1, 0, BAR + 4},     {0x90, 3, 2, 0, 0},
        {0x90, 3, 2, BAR, 1},         {0x90, 5, 2, 0, 1},
    };
    for (unsigned i = 0; i < ARRAY_LEN(t); i++) {
        prepare();
        cap(t[i].at, config[t[i].at + 1u], t[i].type, t[i].in, t[i].off, t[i].len);
        assert_int_equal(co_try(), SR_ENOTSUP);
    }
    prepare();
    config[0x52] = 15; /* shorter than what it should hold */
    assert_int_equal(co_try(), SR_ENOTSUP);
    prepare();
    config[0x61] = 0x50; /* a circle that leaves one out */
    assert_int_equal(co_try(), SR_ENOTSUP);
    prepare();
    dev.bar[1].size = 0;
    assert_int_equal(co_try(), SR_ENOTSUP);
    prepare();
    cap(0x60, 0xf8, VIRTIO_PCI_CAP_NOTIFY, 1, 16, 64);
    config[0xf8] = 9; /* over the end of configuration space */
    config[0xfa] = 16;
    config[0xfb] = VIRTIO_PCI_CAP_ISR;
    assert_int_equal(co_try(), SR_ENOTSUP);
    prepare();
    config[0x34] = 0;
    assert_int_equal(co_try(), SR_ENOTSUP);
}

static void co_bad_registers(void)
{
    prepare();
    bar[0][VIRTIO_PCI_QUEUE_NOTIFY_OFF] = 16; /* 64: behind the notify structure */
    assert_int_equal(co_try(), SR_EIO);
    prepare();
    memset(bar[0] + VIRTIO_PCI_QUEUE_NOTIFY_OFF, 0xff, 2);
    memset(config + 0x60 + VIRTIO_PCI_CAP_MULTIPLIER, 0xff, 4);
    assert_int_equal(co_try(), SR_EIO);
    prepare();
    bar[0][VIRTIO_PCI_NUM_QUEUES] = 0;
    assert_int_equal(co_try(), SR_EINVAL);
    prepare();
    memset(bar[0] + VIRTIO_PCI_DEVICE_FEATURE, 0, 4);
    assert_int_equal(co_try(), SR_ENOTSUP);
    prepare();
    dev.msix_vectors = 0;
    assert_int_equal(co_try(), SR_ENOTSUP);
}

static void co_pci(void *arg)
{
    static const struct pci_host host = {.cfg_read = cfg_read, .cfg_write = cfg_write};
    (void)arg;
    pci_init(&host);
    bus_ready = true;
    for (unsigned i = 0; i < 6; i++)
        bar[i] = malloc(BAR);
    co_good();
    co_bad_caps();
    co_bad_registers();
    for (unsigned i = 0; i < 6; i++)
        free(bar[i]);
}

static void test_pci(void **state)
{
    (void)state;
    test_co_run(co_pci, NULL);
}

/* ---- MMIO ------------------------------------------------------------------------------------ */

static void set(unsigned off, uint32_t v)
{
    memcpy(page + off, &v, 4);
}

static int try_mmio(size_t len)
{
    struct mmio_dev d = {.compatible = MMIO_VIRTIO,
                         .phys = 16 << 20,
                         .len = len,
                         .gsi = 5,
                         .level = true,
                         .name = "mmio x"};
    int rc = SR_ENODEV;
    registry_for_each (mmio_driver, it)
        if (rc == SR_ENODEV)
            rc = (*it)->probe(&d);
    return rc;
}

static void co_mmio(void *arg)
{
    (void)arg;
    page = calloc(1, BAR);
    assert_int_equal(try_mmio(512), SR_ENODEV); /* not virtio at all */
    set(VIRTIO_MMIO_MAGIC, VIRTIO_MMIO_MAGIC_VALUE);
    set(VIRTIO_MMIO_VERSION, 77);
    assert_int_equal(try_mmio(512), SR_ENODEV); /* an empty slot, whatever version it is of */
    set(VIRTIO_MMIO_DEVICE_ID, VIRTIO_ID_ENTROPY);
    set(VIRTIO_MMIO_VERSION, 3);
    assert_int_equal(try_mmio(512), SR_ENODEV); /* not known: said */
    set(VIRTIO_MMIO_VERSION, 2);
    assert_int_equal(try_mmio(256), SR_ENODEV);  /* no room for registers */
    assert_int_equal(try_mmio(512), SR_ENOTSUP); /* offers nothing */
    set(VIRTIO_MMIO_DEVICE_FEATURES, UINT32_MAX);
    assert_int_equal(try_mmio(512), SR_EINVAL); /* no queue */
    set(VIRTIO_MMIO_QUEUE_NUM_MAX, 8);
    assert_int_equal(try_mmio(512), 0);
    assert_int_equal(page[VIRTIO_MMIO_QUEUE_READY], 1);
    assert_int_equal(page[VIRTIO_MMIO_QUEUE_NUM], 1);
    assert_int_equal(page[VIRTIO_MMIO_STATUS], 15);
}

static uint32_t get(unsigned off)
{
    uint32_t v;
    memcpy(&v, page + off, 4);
    return v;
}

/* Version 1: a page number instead of addresses, no registers but its own. On the host addresses are
 * pointers, of up to 47 bits, and a page number has 32. */
static void co_mmio_legacy(void *arg)
{
    (void)arg;
    page = calloc(1, BAR);
    set(VIRTIO_MMIO_MAGIC, VIRTIO_MMIO_MAGIC_VALUE);
    set(VIRTIO_MMIO_VERSION, 1);
    set(VIRTIO_MMIO_DEVICE_ID, VIRTIO_ID_ENTROPY);
    set(VIRTIO_MMIO_DEVICE_FEATURES, UINT32_MAX);
    set(VIRTIO_MMIO_QUEUE_NUM_MAX, 8);
    int rc = try_mmio(512);
    void *p = page_alloc(1);
    assert_int_equal(rc, (uintptr_t)p >> 44 ? SR_ENOTSUP : 0);
    page_free(p, 1);
    assert_int_equal(get(VIRTIO_MMIO_DEVICE_FEATURES_SEL), 0);
    assert_int_equal(get(VIRTIO_MMIO_DRIVER_FEATURES), 7u << VIRTIO_F_ANY_LAYOUT);
    assert_int_equal(get(VIRTIO_MMIO_QUEUE_READY), 0);
    assert_int_equal(get(VIRTIO_MMIO_QUEUE_DESC), 0);
    if (rc)
        return;
    assert_int_equal(get(VIRTIO_MMIO_GUEST_PAGE_SIZE), 4096);
    assert_int_equal(get(VIRTIO_MMIO_QUEUE_ALIGN), 4096);
    assert_int_not_equal(get(VIRTIO_MMIO_QUEUE_PFN), 0);
    assert_int_equal(get(VIRTIO_MMIO_STATUS), 7); /* no FEATURES_OK */
}

static void test_mmio(void **state)
{
    (void)state;
    test_co_run(co_mmio, NULL); /* the devices and their pages stay for ever */
    test_co_run(co_mmio_legacy, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_pci), cmocka_unit_test(test_mmio)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
