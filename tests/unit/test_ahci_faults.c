/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The AHCI driver when things go wrong: errors of every kind, time-outs, devices that come and go
 * with requests in flight, controllers that lie, allocations that fail.
 */
#include "tests/unit/support_ahci.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* ---- Errors of the disk ---------------------------------------------------------------------- */

/* Of what is in flight together, those on the bad sectors fail, and no others. */
static void co_bad_sectors(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < 8; i++) {
        bool write = i & 1, ncq = i & 2;
        sata_prepare(512);
        disk.no_log = i & 4;
        if (!ncq)
            ahci_model_id(&disk, ID_SATA, 0);
        co_sata_open("");
        disk.bad_first = 10 * 8 + 3;
        disk.bad_count = 8;
        disk.bad_left = UINT_MAX;
        sata_start_many(SATA_MANY, write);
        co_sata_end_many(SATA_MANY);
        for (unsigned k = 0; k < SATA_MANY; k++)
            assert_int_equal(sata_many[k].rc, k == 10 || k == 11 ? SR_EIO : 0);
        assert_int_equal(!!hba.comresets, ncq && disk.no_log);
        disk.bad_left = 0;
        memcpy(sata_mirror, sata_data, SATA_SIZE);
        co_sata_random(20);
        co_sata_shut();
    }
}

/* An error that does not come again is no error where the disk does not say whose it was. */
static void co_passing_error(void *arg)
{
    (void)arg;
    sata_prepare(512);
    disk.no_log = true;
    co_sata_open("");
    disk.bad_count = SATA_SIZE / 512;
    disk.bad_left = 1;
    sata_start_many(SATA_MANY, false);
    co_sata_end_many(SATA_MANY);
    for (unsigned k = 0; k < SATA_MANY; k++)
        assert_int_equal(sata_many[k].rc, 0);
    co_sata_shut();
}

/* Everything fails, and ends. */
static void co_dead_medium(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < 2; i++) {
        sata_prepare(512);
        disk.no_log = i;
        co_sata_open("");
        disk.bad_count = SATA_SIZE / 512;
        disk.bad_left = UINT_MAX;
        sata_start_many(SATA_MANY, true);
        co_sata_end_many(SATA_MANY);
        for (unsigned k = 0; k < SATA_MANY; k++)
            assert_int_equal(sata_many[k].rc, SR_EIO);
        co_sata_shut();
    }
}

static void co_short_data(void *arg)
{
    uint8_t b[4096];
    (void)arg;
    sata_prepare(512);
    ahci_model_id(&disk, ID_SATA, 0); /* of queued commands nobody counts bytes */
    co_sata_open("");
    disk.short_by = 512;
    assert_int_equal(co_blk_pread(root.c, 0, b, sizeof(b)), SR_EIO);
    disk.short_by = 0;
    assert_int_equal(co_blk_pread(root.c, 0, b, sizeof(b)), 0);
    co_sata_shut();
}

/* ---- Time-outs ------------------------------------------------------------------------------- */

static void co_one_stuck_command(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < 2; i++) {
        sata_prepare(512);
        hba.hba.hurry = 300;
        if (i)
            ahci_model_id(&disk, ID_SATA, 0);
        co_sata_open("");
        disk.stuck_lba = 20 * 8;
        sata_start_many(SATA_MANY, false);
        co_sata_end_many(SATA_MANY);
        for (unsigned k = 0; k < SATA_MANY; k++)
            assert_int_equal(sata_many[k].rc, k == 20 ? SR_EIO : 0);
        disk.stuck_lba = UINT64_MAX;
        disk.stuck_once = true; /* a reset cures it */
        sata_start_many(SATA_MANY, true);
        co_sata_end_many(SATA_MANY);
        for (unsigned k = 0; k < SATA_MANY; k++)
            assert_int_equal(sata_many[k].rc, 0);
        co_sata_shut();
    }
}

/* Never answers again: everything fails, also later requests, and at once. */
static void co_mute(void *arg)
{
    uint8_t b[512];
    (void)arg;
    for (unsigned i = 0; i < 3; i++) {
        sata_prepare(512);
        hba.hba.hurry = 300;
        co_sata_open("");
        disk.mute = i != 1;
        disk.busy = i;
        if (i == 1)
            ahci_model_raise(&hba, 0, PIS_HBFS);
        sata_start_many(SATA_MANY, false);
        if (i == 1) {
            co_reschedule();
            ahci_model_raise(&hba, 0, PIS_IFS);
        }
        co_sata_end_many(SATA_MANY);
        if (i != 1)
            for (unsigned k = 0; k < SATA_MANY; k++)
                assert_int_equal(sata_many[k].rc, SR_EIO);
        if (i == 2)
            assert_int_equal(co_blk_pread(root.c, 0, b, 512), SR_EIO);
        co_sata_shut();
    }
}

/* Its engine does not stop: the controller is reset, or cut off when that does not help. */
static void co_does_not_stop(void *arg)
{
    uint8_t b[512];
    (void)arg;
    for (unsigned i = 0; i < 2; i++) {
        sata_prepare(512);
        hba.hba.hurry = 300;
        hba.no_reset = i;
        co_sata_open("");
        disk.mute = true;
        hba.port[0].stuck = true;
        sata_start_many(40, false);
        co_sata_end_many(40);
        for (unsigned k = 0; k < 40; k++)
            assert_int_equal(sata_many[k].rc, SR_EIO);
        assert_int_equal(hba.cut, i);
        assert_int_equal(hba.resets, !i);
        assert_int_equal(co_blk_pread(root.c, 0, b, 512), SR_EIO);
        co_sata_shut();
    }
}

/* ---- Hot plug -------------------------------------------------------------------------------- */

static unsigned disks(void)
{
    unsigned n = 0;
    list_for_each (d, disk_list(), struct disk, link)
        n++;
    return n;
}

static void co_pulled_and_back(void *arg)
{
    uint8_t b[4096];
    (void)arg;
    for (unsigned i = 0; i < 2; i++) {
        sata_prepare(512);
        co_sata_open("");
        disk.hold = i;
        sata_start_many(SATA_MANY, false);
        co_reschedule();
        ahci_model_plug(&hba, 0, NULL);
        co_sata_end_many(SATA_MANY);
        for (unsigned k = 0; k < SATA_MANY; k++)
            assert_true(!sata_many[k].rc || sata_many[k].rc == SR_EIO);
        assert_int_equal(sata_many[SATA_MANY - 1].rc, SR_EIO);
        assert_int_equal(co_blk_pread(root.c, 0, b, 512), SR_EIO);
        assert_int_equal(disks(), 1); /* listed while it is used */
        disk.hold = false;
        ahci_model_plug(&hba, 0, &disk);
        while (co_blk_pread(root.c, 0, b, 4096))
            co_sleep_ns(1000000);
        assert_memory_equal(b, sata_data, 4096);
        co_sata_random(20);
        co_sata_shut();
    }
}

/* The link went down and up: nobody notices. */
static void co_glitch(void *arg)
{
    (void)arg;
    sata_prepare(512);
    co_sata_open("");
    for (unsigned i = 0; i < 10; i++) {
        sata_start_many(SATA_MANY, true);
        co_reschedule();
        ahci_model_plug(&hba, 0, &disk);
        co_sata_end_many(SATA_MANY);
        for (unsigned k = 0; k < SATA_MANY; k++)
            assert_int_equal(sata_many[k].rc, 0);
    }
    co_sata_shut();
}

static void co_another_disk(void *arg)
{
    struct ahci_model_disk other;
    uint8_t *bytes = calloc(1, 1 << 20), b[512];
    (void)arg;
    sata_prepare(512);
    ahci_model_disk_init(&other, bytes, 1 << 20, 512, "other");
    co_sata_open("");
    ahci_model_plug(&hba, 0, &other); /* at the place of one that is used: not touched */
    while (!co_blk_pread(root.c, 0, b, 512))
        co_sleep_ns(1000000);
    co_sata_settle();
    assert_int_equal(co_blk_pwrite(root.c, 0, b, 512, 0), SR_EIO);
    assert_int_equal(other.commands[ATA_WRITE_FPDMA], 0);
    ahci_model_plug(&hba, 0, &disk);
    while (co_blk_pread(root.c, 0, b, 512))
        co_sleep_ns(1000000);

    ahci_model_plug(&hba, 3, &other); /* at a free place: another disk */
    while (disks() != 2)
        co_sleep_ns(1000000);
    struct node *n = test_open("ahci,node-name=m,serial=other");
    assert_int_equal(n->size, 1 << 20);
    ahci_model_plug(&hba, 3, NULL);
    co_sleep_ns(5000000);
    co_sata_settle();
    assert_int_equal(disks(), 2);
    co_node_unref(n);
    assert_int_equal(disks(), 1); /* nobody uses it any more */
    ahci_model_plug(&hba, 3, &other);
    while (disks() != 2)
        co_sleep_ns(1000000);
    ahci_model_plug(&hba, 3, NULL);
    while (disks() != 1)
        co_sleep_ns(1000000);
    co_sata_shut();
    free(bytes);
}

/* ---- Controllers and disks that are refused -------------------------------------------------- */

static void co_bad_controllers(void *arg)
{
    static const struct {
        uint32_t cap, pi, vs;
    } t[] = {{UINT32_MAX, UINT32_MAX, UINT32_MAX},
             {0, 0, 0x10301},
             {0, 7, 0x10301},
             {31, UINT32_MAX, 0x10301},
             {5, 63, 0},
             {5, 63, 0x00ff0000},
             {7, 1u << 31, 0x10301}};
    (void)arg;
    for (unsigned i = 0; i < ARRAY_LEN(t); i++) {
        sata_prepare(512);
        hba.cap = t[i].cap;
        hba.pi = t[i].pi;
        hba.vs = t[i].vs;
        assert_int_equal(co_ahci_model_attach(&hba), SR_EINVAL);
        sata_free();
    }
    for (unsigned keeps = 0; keeps < 2; keeps++) { /* firmware lets go of it, or not: goes on */
        sata_prepare(512);
        hba.cap2 = CAP2_BOH;
        hba.bohc = BOHC_BOS | BOHC_BB;
        hba.firmware_keeps = keeps;
        co_sata_open("");
        assert_true(hba.bohc & BOHC_OOS);
        co_sata_random(5);
        co_sata_shut();
    }
}

/* Left out with a line; the disk on another port serves. */
static void co_refused(void)
{
    struct ahci_model_disk good;
    uint8_t *bytes = calloc(1, 1 << 20);
    ahci_model_disk_init(&good, bytes, 1 << 20, 512, "good");
    hba.port[5].disk = &good;
    hba.hba.hurry = 300;
    assert_int_equal(co_ahci_model_attach(&hba), 0);
    assert_int_equal(disks(), 1);
    struct node *n = test_open("ahci,node-name=g,port=5");
    co_node_unref(n);
    co_ahci_model_detach(&hba);
    sata_free();
    free(bytes);
}

static void co_bad_disks(void *arg)
{
    static const struct {
        unsigned word;
        uint16_t value;
    } t[] = {{ID_CAPABILITIES, 0},        {ID_SECTORS48 + 3, 1},     {ID_CONFIG, 0x8580},
             {ID_INTEGRITY, 0x00a5},      {ID_SECTOR_SIZE, 0x5000},  {ID_COMMANDS2, 0x4000},
             {ID_LOGICAL_WORDS + 1, 0x8}, {ID_LOGICAL_WORDS, 0x0300}};
    (void)arg;
    for (unsigned i = 0; i < ARRAY_LEN(t); i++) {
        sata_prepare(512);
        if (t[i].word >= ID_LOGICAL_WORDS && t[i].word <= ID_LOGICAL_WORDS + 1)
            ahci_model_id(&disk, ID_SECTOR_SIZE, 0x5000);
        ahci_model_id(&disk, t[i].word, t[i].value);
        if (t[i].word == ID_COMMANDS2)
            memset(disk.id + 2 * ID_SECTORS28, 0, 4);
        co_refused();
    }
    sata_prepare(512);
    disk.mute = true;
    co_refused();
    sata_prepare(512);
    disk.busy = true;
    co_refused();
    sata_prepare(512);
    disk.short_by = 512;
    co_refused();
}

/* Interrupts that say nothing true: everything is still right. */
static void co_wrong_interrupts(void *arg)
{
    (void)arg;
    sata_prepare(512);
    co_sata_open("");
    for (unsigned i = 0; i < 200; i++) {
        sata_start_many(20, i & 1);
        co_reschedule();
        ahci_model_raise(&hba, test_random() % 6, 1u << test_random() % 32);
        if (i % 10 == 9)
            hba.port[0].reg[PX_CI / 4] = 0; /* completes what was never issued */
        co_sata_end_many(20);
    }
    co_sata_settle();
    co_sata_shut();
}

/* Registers with wrong bits: whatever comes of it ends, and memory is in order. */
static void co_spoilt(void *arg)
{
    (void)arg;
    for (unsigned i = 1; i <= 60; i++) {
        sata_prepare(512);
        hba.hba.hurry = 5000;
        hba.spoil = i % 2 ? i : 0;
        if (!co_ahci_model_attach(&hba)) {
            bool used = disks();
            if (used) {
                root = test_root_open(test_open("ahci,node-name=n,serial=s0"));
                hba.spoil = i;
                sata_start_many(40, i & 2);
                co_sata_wait_many(40);
                test_root_close(&root);
            }
            co_ahci_model_detach(&hba);
            if (used) /* a controller that lies about completion goes on until it is stopped */
                sata_free_many(40);
        }
        hba.wrong = 0;
        sata_free();
    }
}

/* ---- Memory ---------------------------------------------------------------------------------- */

/* The nth allocation fails, for each n until everything comes up. */
static void co_allocations(void *arg)
{
    bool fired;
    uint64_t nth = 1;
    (void)arg;
    do {
        sata_prepare(512);
        size_t pages = page_free_bytes();
        fault_arm(FAULT_ALLOC, nth++, false);
        int rc = co_ahci_model_attach(&hba);
        fired = fault_fired(FAULT_ALLOC);
        fault_arm(FAULT_ALLOC, 0, false);
        assert_true(!rc || rc == SR_ENOMEM);
        assert_true(fired || disks() == 1);
        if (!rc)
            co_ahci_model_detach(&hba);
        assert_int_equal(disks(), 0);
        assert_int_equal(page_free_bytes(), pages);
        sata_free();
    } while (fired);
    assert_true(nth > 8);
}

#define TEST(name)                        \
    static void test_##name(void **state) \
    {                                     \
        (void)state;                      \
        test_co_run(co_##name, NULL);     \
    }
TEST(bad_sectors)
TEST(passing_error)
TEST(dead_medium)
TEST(short_data)
TEST(one_stuck_command)
TEST(mute)
TEST(does_not_stop)
TEST(pulled_and_back)
TEST(glitch)
TEST(another_disk)
TEST(bad_controllers)
TEST(bad_disks)
TEST(wrong_interrupts)
TEST(spoilt)
TEST(allocations)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_sectors),
        cmocka_unit_test(test_passing_error),
        cmocka_unit_test(test_dead_medium),
        cmocka_unit_test(test_short_data),
        cmocka_unit_test(test_one_stuck_command),
        cmocka_unit_test(test_mute),
        cmocka_unit_test(test_does_not_stop),
        cmocka_unit_test(test_pulled_and_back),
        cmocka_unit_test(test_glitch),
        cmocka_unit_test(test_another_disk),
        cmocka_unit_test(test_bad_controllers),
        cmocka_unit_test(test_bad_disks),
        cmocka_unit_test(test_wrong_interrupts),
        cmocka_unit_test(test_spoilt),
        cmocka_unit_test(test_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
