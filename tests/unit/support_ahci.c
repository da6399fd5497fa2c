/* SPDX-License-Identifier: BSD-2-Clause */
#include "tests/unit/support_ahci.h"

#include "ahci/port.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEGS 40

struct ahci_model hba;
struct ahci_model_disk disk;
uint8_t *sata_data, *sata_mirror;
struct test_root root;
struct sata_many sata_many[SATA_MANY];
unsigned sata_ended;
static struct co *waiter;

void sata_prepare(uint32_t block)
{
    sata_data = malloc(SATA_SIZE);
    sata_mirror = malloc(SATA_SIZE);
    for (size_t i = 0; i < SATA_SIZE; i++)
        sata_data[i] = (uint8_t)(i >> 12 ^ i >> 9);
    memcpy(sata_mirror, sata_data, SATA_SIZE);
    ahci_model_init(&hba, 6);
    ahci_model_disk_init(&disk, sata_data, SATA_SIZE, block, "s0");
    hba.port[0].disk = &disk;
}

void co_sata_open(const char *more)
{
    char text[128];
    assert_int_equal(co_ahci_model_attach(&hba), 0);
    snprintf(text, sizeof(text), "ahci,node-name=n,port=0%s", more);
    root = test_root_open(test_open(text));
}

void sata_free(void)
{
    if (hba.wrong)
        print_error("the driver: %s\n", hba.complaint);
    assert_int_equal(hba.wrong, 0);
    free(sata_data);
    free(sata_mirror);
}

void co_sata_shut(void)
{
    test_root_close(&root);
    co_ahci_model_detach(&hba);
    assert_true(list_empty(disk_list()));
    sata_free();
}

/* Random pieces at odd addresses over one buffer. */
static struct iov pieces(struct seg *seg, uint8_t *buf, size_t len)
{
    size_t at = 0;
    unsigned n = 0, even = test_random() & 1;
    while (at < len) {
        size_t piece = n == SEGS - 1 ? len - at : MIN(len - at, 1 + test_random() % 9000);
        if (even && piece > 1 && at + piece < len)
            piece &= ~(size_t)1;
        seg[n++] = (struct seg){buf + at, piece};
        at += piece;
    }
    return (struct iov){.seg = seg, .len = len};
}

static void co_one(uint8_t *buf)
{
    struct seg seg[SEGS];
    uint64_t off = test_random() % SATA_SIZE;
    size_t len = 1 + test_random() % (200u << 10);
    if (test_random() & 1) {
        off = align_down(off, 4096);
        len = align_up(len, 4096);
    }
    len = (size_t)MIN(len, SATA_SIZE - off);
    uint8_t *b = buf + test_random() % 64;
    if (test_random() & 1) {
        memset(b, (int)test_random(), len);
        memcpy(sata_mirror + off, b, len);
        assert_int_equal(co_blk_pwritev(root.c, off, pieces(seg, b, len), 0), 0);
    } else {
        assert_int_equal(co_blk_preadv(root.c, off, pieces(seg, b, len), 0), 0);
        assert_memory_equal(b, sata_mirror + off, len);
    }
}

void co_sata_random(unsigned count)
{
    uint8_t *buf = malloc((256u << 10) + 64);
    for (unsigned i = 0; i < count; i++)
        co_one(buf);
    assert_memory_equal(sata_data, sata_mirror, SATA_SIZE);
    free(buf);
}

static void co_transfer(void *arg)
{
    struct sata_many *m = arg;
    uint64_t off = (uint64_t)(m - sata_many) * 4096;
    struct seg seg;
    struct iov v = iov_one(&seg, m->buf, 4096);
    m->rc = m->write ? co_blk_pwritev(root.c, off, v, 0) : co_blk_preadv(root.c, off, v, 0);
    m->done = true;
    sata_ended++;
    co_wake(waiter);
}

void sata_start_many(unsigned count, bool write)
{
    sata_ended = 0;
    waiter = co_self();
    for (unsigned i = 0; i < count; i++) {
        struct sata_many *m = &sata_many[i];
        *m = (struct sata_many){.buf = malloc(4096), .write = write};
        memset(m->buf, (int)(i + 1), 4096);
        co_start_child(&m->start, co_transfer, m);
    }
}

void co_sata_wait_many(unsigned count)
{
    while (sata_ended < count)
        co_yield ();
}

void sata_free_many(unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        free(sata_many[i].buf);
}

void co_sata_settle(void)
{
    for (unsigned i = 0; i < AHCI_MAX_PORTS; i++)
        if (hba.hba.port[i])
            co_ahci_settle(hba.hba.port[i]);
}

void co_sata_end_many(unsigned count)
{
    while (sata_ended < count)
        co_yield ();
    for (unsigned i = 0; i < count; i++) {
        const struct sata_many *m = &sata_many[i];
        if (!m->rc)
            assert_memory_equal(m->buf, sata_data + i * 4096, 4096);
        free(m->buf);
    }
}
