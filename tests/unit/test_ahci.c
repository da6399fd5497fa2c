/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The AHCI driver against a controller in memory, through the block layer: disks of every kind, all
 * commands, a full queue, a controller of 32 bits, CD-ROM.
 */
#include "tests/unit/support_ahci.h"

#include "ahci/port.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* ---- Disks ----------------------------------------------------------------------------------- */

static void co_data(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < 4; i++) {
        sata_prepare(i & 1 ? 4096 : 512);
        disk.backwards = i & 2;
        co_sata_open("");
        assert_int_equal(root.n->limits.request_alignment, i & 1 ? 4096 : 512);
        assert_int_equal(root.n->limits.mem_align, 2);
        co_sata_random(200);
        assert_true(disk.commands[ATA_READ_FPDMA] && disk.commands[ATA_WRITE_FPDMA]);
        assert_int_equal(disk.commands[ATA_READ_DMA_EXT], 0);
        co_sata_shut();
    }
}

static void co_without_ncq(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < 2; i++) { /* the disk has none, the controller has none */
        sata_prepare(512);
        if (i)
            hba.cap &= ~CAP_SNCQ;
        else
            ahci_model_id(&disk, ID_SATA, 0);
        co_sata_open("");
        co_sata_random(100);
        assert_true(disk.commands[ATA_READ_DMA_EXT] && disk.commands[ATA_WRITE_DMA_EXT]);
        assert_int_equal(disk.commands[ATA_READ_FPDMA], 0);
        sata_start_many(SATA_MANY, false);
        co_sata_end_many(SATA_MANY);
        co_sata_shut();
    }
}

static void co_lba28(void *arg)
{
    (void)arg;
    sata_prepare(512);
    ahci_model_id(&disk, ID_COMMANDS2, 1u << 14 | 1u << 12);
    co_sata_open("");
    assert_int_equal(root.n->limits.max_transfer, 128u << 10);
    co_sata_random(200);
    assert_true(disk.commands[ATA_READ_DMA] && disk.commands[ATA_WRITE_DMA]);
    assert_int_equal(co_blk_flush(root.c), 0);
    assert_int_equal(disk.commands[ATA_FLUSH], 1);
    co_sata_shut();
}

static void co_depths(void *arg)
{
    static const struct {
        unsigned slots, depth, most;
    } t[] = {{32, 32, 32}, {32, 1, 1}, {8, 32, 8}, {32, 5, 5}, {1, 32, 1}};
    (void)arg;
    for (unsigned i = 0; i < ARRAY_LEN(t); i++) {
        sata_prepare(512);
        hba.cap = CAP_S64A | CAP_SNCQ | (t[i].slots - 1) << 8 | 5;
        ahci_model_id(&disk, ID_QUEUE_DEPTH, (uint16_t)(t[i].depth - 1));
        co_sata_open("");
        disk.hold = true;
        sata_start_many(SATA_MANY, true);
        for (unsigned k = 0; k < 100; k++)
            co_reschedule();
        assert_int_equal(disk.most, t[i].most);
        assert_int_equal(sata_ended, 0);
        disk.hold = false;
        co_sata_end_many(SATA_MANY);
        co_sata_shut();
    }
}

/* ---- Other commands -------------------------------------------------------------------------- */

static void co_commands(void *arg)
{
    uint8_t b[4096] = {1};
    (void)arg;
    sata_prepare(512);
    co_sata_open(",discard=unmap");
    assert_int_equal(co_blk_pwrite(root.c, 0, b, sizeof(b), BLK_FUA), 0);
    assert_int_equal(disk.fua, 1);
    assert_int_equal(disk.commands[ATA_FLUSH_EXT], 0);
    assert_int_equal(co_blk_flush(root.c), 0);
    assert_int_equal(disk.commands[ATA_FLUSH_EXT], 1);
    assert_int_equal(co_blk_pdiscard(root.c, 1 << 20, 1 << 20), 0);
    assert_int_equal(disk.trimmed, 2048);
    assert_int_equal(sata_data[(1 << 20) - 1], sata_mirror[(1 << 20) - 1]);
    assert_int_equal(sata_data[1 << 20], 0xdd);
    assert_int_equal(sata_data[(2 << 20) - 1], 0xdd);
    assert_int_equal(sata_data[2 << 20], sata_mirror[2 << 20]);
    co_sata_shut();

    sata_prepare(512); /* a disk without FUA and TRIM */
    ahci_model_id(&disk, ID_COMMANDS3, 1u << 14);
    ahci_model_id(&disk, ID_DSM, 0);
    co_sata_open(",discard=unmap");
    assert_int_equal(co_blk_pwrite(root.c, 0, b, sizeof(b), BLK_FUA), 0);
    assert_int_equal(disk.fua, 0);
    assert_int_equal(disk.commands[ATA_FLUSH_EXT], 1);
    assert_int_equal(co_blk_pdiscard(root.c, 1 << 20, 1 << 20), 0);
    assert_int_equal(disk.commands[ATA_DSM], 0);
    co_sata_shut();
}

/* A flush and what is queued are never in flight together; the model would complain. */
static void co_mixed(void *arg)
{
    (void)arg;
    sata_prepare(512);
    co_sata_open("");
    for (unsigned i = 0; i < 20; i++) {
        disk.hold = true;
        sata_start_many(50, true);
        co_reschedule();
        disk.hold = false;
        root.n->flushed_gen = 0;
        node_dirty(root.n);
        assert_int_equal(co_blk_flush(root.c), 0);
        co_sata_end_many(50);
    }
    assert_int_equal(disk.commands[ATA_FLUSH_EXT], 20);
    co_sata_shut();
}

/* Completion that only an interrupt can announce: the loop sleeps before. */
static void release(struct timer *t)
{
    (void)t;
    disk.hold = false;
}

static void co_interrupts(void *arg)
{
    struct timer t;
    (void)arg;
    sata_prepare(512);
    co_sata_open("");
    timer_init(&t, release);
    for (unsigned i = 0; i < 20; i++) {
        disk.hold = true;
        sata_start_many(10, false);
        timer_set(&t, board_clock_ns() + 5000000);
        co_sata_end_many(10);
    }
    assert_true(hba.messages >= 10); /* each sleep was ended by one; a slow machine may not sleep */
    co_sata_shut();
}

/* ---- 32 bits --------------------------------------------------------------------------------- */

static unsigned low_blocks;

static void *alloc_low(size_t bytes)
{
    void *p =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    low_blocks++;
    return p == MAP_FAILED ? NULL : p;
}

static void free_low(void *p, size_t bytes)
{
    low_blocks--;
    munmap(p, bytes);
}

static void co_32_bits(void *arg)
{
    (void)arg;
    for (unsigned ncq = 0; ncq < 2; ncq++) {
        sata_prepare(512);
        struct ahci_bus bus = *hba.hba.bus;
        bus.alloc_low = alloc_low;
        bus.free_low = free_low;
        hba.hba.bus = &bus;
        hba.cap &= ~(CAP_S64A | (ncq ? 0 : CAP_SNCQ));
        co_sata_open("");
        assert_int_equal(root.n->limits.max_transfer, 64u << 10);
        co_sata_random(100);
        sata_start_many(SATA_MANY, true);
        co_sata_end_many(SATA_MANY);
        sata_start_many(SATA_MANY, false);
        co_sata_end_many(SATA_MANY);
        co_sata_shut();
        assert_int_equal(low_blocks, 0);
    }
    sata_prepare(512); /* no such memory */
    hba.cap &= ~CAP_S64A;
    assert_int_equal(co_ahci_model_attach(&hba), 0);
    assert_true(list_empty(disk_list()));
    co_ahci_model_detach(&hba);
    sata_free();
}

/* ---- CD-ROM ---------------------------------------------------------------------------------- */

static void co_cd(void *arg)
{
    uint8_t *b = malloc(SATA_SIZE);
    (void)arg;
    sata_prepare(512);
    ahci_model_cd_init(&disk, sata_data, SATA_SIZE, "cd");
    co_sata_open("");
    assert_true(root.n->read_only);
    assert_int_equal(root.n->size, SATA_SIZE);
    assert_int_equal(co_blk_pread(root.c, 0, b, SATA_SIZE), 0);
    assert_memory_equal(b, sata_data, SATA_SIZE);
    assert_int_equal(co_blk_pread(root.c, 12345, b, 7777), 0);
    assert_memory_equal(b, sata_data + 12345, 7777);
    disk.bad_first = 100;
    disk.bad_left = 1000;
    assert_int_equal(co_blk_pread(root.c, 100 * 2048, b, 2048), SR_EIO);
    assert_int_equal(co_blk_pread(root.c, 101 * 2048, b, 2048), 0);
    disk.attention = 0x29; /* it was reset: read again */
    assert_int_equal(co_blk_pread(root.c, 0, b, 2048), 0);
    disk.short_by = 2;
    assert_int_equal(co_blk_pread(root.c, 0, b, 4096), SR_EIO);
    disk.short_by = 0;
    disk.no_medium = disk.tray_open = true;
    assert_int_equal(co_blk_pread(root.c, 0, b, 2048), SR_EIO);
    while (root.n->size)
        co_sleep_ns(1000000);
    disk.no_medium = disk.tray_open = false;
    disk.attention = 0x28;
    disk.size = SATA_SIZE / 2;
    while (root.n->size != SATA_SIZE / 2)
        co_sleep_ns(1000000);
    disk.attention = 0x28; /* another one: not what the reader began with */
    disk.size = SATA_SIZE;
    assert_int_equal(co_blk_pread(root.c, 0, b, 2048), SR_EIO);
    assert_int_equal(co_blk_pread(root.c, 0, b, 2048), 0);
    co_sata_shut();
    free(b);
}

/* ---- IDENTIFY -------------------------------------------------------------------------------- */

static void test_identify(void **state)
{
    struct ahci_ident id;
    const char *why;
    (void)state;
    sata_prepare(512);
    memcpy(disk.id + 2 * ID_SERIAL, "  0SA\001 \377", 8); /* a word's first letter comes second */
    ahci_model_id(&disk, ID_SECTOR_SIZE, 1u << 14 | 1u << 13 | 3);
    ahci_model_id(&disk, ID_ROTATION, 7200);
    assert_int_equal(ahci_identify_parse(&id, disk.id, false, &why), 0);
    assert_string_equal(id.serial, "S0?A?");
    assert_string_equal(id.model, "MODEL DISK");
    assert_string_equal(id.firmware, "1.0");
    assert_int_equal(id.block_size, 512);
    assert_int_equal(id.physical, 4096);
    assert_int_equal(id.rotation, 7200);
    assert_int_equal(id.depth, 32);
    assert_int_equal(id.sectors, SATA_SIZE / 512);
    assert_true(id.ncq && id.fua && id.trim && id.flush_ext && id.lba48);
    ahci_model_id(&disk, ID_COMMANDS3, 1u << 6); /* words that are not valid do not count */
    ahci_model_id(&disk, ID_SECTOR_SIZE, 1u << 13 | 3);
    assert_int_equal(ahci_identify_parse(&id, disk.id, false, &why), 0);
    assert_false(id.fua);
    assert_int_equal(id.physical, 512);
    assert_int_equal(ahci_identify_parse(&id, disk.id, true, &why), SR_EINVAL);
    sata_free();
}

#define TEST(name)                        \
    static void test_##name(void **state) \
    {                                     \
        (void)state;                      \
        test_co_run(co_##name, NULL);     \
    }
TEST(data)
TEST(without_ncq)
TEST(lba28)
TEST(depths)
TEST(commands)
TEST(mixed)
TEST(interrupts)
TEST(32_bits)
TEST(cd)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_data),       cmocka_unit_test(test_without_ncq),
        cmocka_unit_test(test_lba28),      cmocka_unit_test(test_depths),
        cmocka_unit_test(test_commands),   cmocka_unit_test(test_mixed),
        cmocka_unit_test(test_interrupts), cmocka_unit_test(test_32_bits),
        cmocka_unit_test(test_cd),         cmocka_unit_test(test_identify),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
