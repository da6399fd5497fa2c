/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Damaged qcow2 images: what is refused at open and with which sentence; what fails one request and
 * leaves the others alone; images cut off at every length.
 */
#include "tests/unit/support.h"
#include "tests/unit/support_qcow2.h"
#include "kernel/kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OPEN "driver=qcow2,node-name=q,read-only=on,file=m"

static void drop(struct node *n)
{
    n->monitor_owned = false;
    co_node_unref(n);
}

static struct node *mem(uint64_t size)
{
    char text[100];
    snprintf(text, sizeof(text), "driver=mem,node-name=m,size=%llu", (unsigned long long)size);
    return test_open(text);
}

/* ---- headers ---- */

struct damage {
    unsigned at, bytes;
    uint64_t value;
    const char *says; /* NULL: opens */
};
/* Of an image with 512-byte clusters: refcount table at 512, L1 table at 1024, extensions at 112. */
static const struct damage damages[] = {
    {0, 4, 0x514649fc, "Image is not in qcow2 format"},
    {4, 4, 1, "Unsupported qcow2 version 1"},
    {4, 4, 4, "Unsupported qcow2 version 4"},
    {20, 4, 8, "Unsupported cluster size: 2^8"},
    {20, 4, 22, "Unsupported cluster size: 2^22"},
    {20, 4, 0xffffffff, "Unsupported cluster size: 2^4294967295"},
    {8, 8, 513, "Invalid backing file offset"},
    {8, 8, ~0ull, "Invalid backing file offset"},
    {24, 8, 1ull << 36, "L1 table is too small"},
    {24, 8, 1ull << 63, "Image is too big"},
    {24, 8, ~0ull, "Image is too big"},
    {32, 4, 1, "encrypted images are not supported (encryption method 1)"},
    {32, 4, 2, "encrypted images are not supported (encryption method 2)"},
    {36, 4, 1, "L1 table is too small"},
    {36, 4, 0x400001, "Active L1 table too large"},
    {36, 4, 0x400000, "Active L1 table offset invalid"},
    {40, 8, 1, "Active L1 table offset invalid"},
    {40, 8, 0, "Active L1 table offset invalid"},
    {40, 8, 512, "Active L1 table and reference count table overlap"},
    {40, 8, 1ull << 62, "Active L1 table offset invalid"},
    {40, 8, ~511ull, "Active L1 table offset invalid"},
    {48, 8, 513, "Reference count table offset invalid"},
    {48, 8, 1ull << 60, "Reference count table offset invalid"},
    {56, 4, 0, "Image does not contain a reference count table"},
    {56, 4, 0x10000, "Reference count table too large"},
    {60, 4, 65537, "Snapshot table too large"},
    {60, 4, 1, "Snapshot table offset invalid"},
    {64, 8, 77, "Snapshot table offset invalid"},
    {72, 8, 1, NULL}, /* dirty */
    {72, 8, 2, NULL}, /* corrupt */
    {72, 8, 1ull << 17, "Unsupported qcow2 feature(s): Unknown incompatible feature: 20000"},
    {72, 8, ~31ull, "Unsupported qcow2 feature(s): "},
    {72, 8, 4, "'data-file' is required for this image"},
    {72, 8, 8, "Compression type incompatible feature bit must not be set"},
    {72, 8, 16, "Unsupported subcluster size: 16"},
    {80, 8, ~0ull, NULL},
    {88, 8, ~3ull, NULL},
    {88, 8, 1, "bitmaps_ext: Header extension is missing"},
    {88, 8, 2, "data-file-raw requires a data file"},
    {96, 4, 6, NULL},
    {96, 4, 7, "Reference count entry width too large; may not exceed 64 bits"},
    {100, 4, 103, "qcow2 header too short"},
    {100, 4, 105, "qcow2 header length is not a multiple of 8"},
    {100, 4, 520, "qcow2 header exceeds cluster size"},
    {104, 1, 1, "Compression type incompatible feature bit must be set"},
    {104, 1, 2, "qcow2: unknown compression type: 2"},
    {116, 4, 0x7fffffff, "Header extension too large"},
    {116, 4, 400, "Header extension too large"},
};

static void co_headers(void *arg)
{
    struct image i = {.version = 3, .cluster_bits = 9, .size = 100000};
    (void)arg;
    image_make(&i, IMAGE_RANDOM);
    struct node *m = mem(i.file_size);
    for (unsigned k = 0; k < ARRAY_LEN(damages); k++) {
        const struct damage *d = &damages[k];
        image_put(&i, "m");
        put_be(memdisk_of(m)->data + d->at, d->bytes, d->value);
        if (!d->says) {
            drop(test_open(OPEN));
            continue;
        }
        const char *said = test_open_error(OPEN);
        if (!strstr(said, d->says))
            fail_msg("damage %u (at %u): '%s', not '%s'", k, d->at, said, d->says);
    }
    drop(m);
    image_free(&i);
}

static void test_headers(void **state)
{
    (void)state;
    test_co_run(co_headers, NULL);
}

/* Features that we do not know, by the name that the image has for them. */
static void co_feature_names(void *arg)
{
    struct image i = {.version = 3, .cluster_bits = 10, .size = 5000};
    (void)arg;
    image_make(&i, IMAGE_EMPTY);
    uint8_t *x = i.file + 112;
    put_be(i.file + 72, 8, 1ull << 40 | 1ull << 41 | 1ull << 42);
    put_be(x, 4, 0x6803f857);
    put_be(x + 4, 4, 3 * 48);
    x[8] = 1; /* a compatible one with the same bit */
    x[9] = 40;
    strcpy((char *)x + 10, "wrong");
    x[8 + 48 + 1] = 40;
    strcpy((char *)x + 8 + 48 + 2, "time travel");
    x[8 + 96 + 1] = 41;
    memset(x + 8 + 96 + 2, '\n', 46); /* as long as it may be, and not for a console */
    struct node *m = mem(i.file_size);
    image_put(&i, "m");
    assert_string_equal(test_open_error(OPEN), "Unsupported qcow2 feature(s): time travel, "
                                               "??????????????????????????????????????????????, "
                                               "Unknown incompatible feature: 40000000000");
    drop(m);
    image_free(&i);
}

static void test_feature_names(void **state)
{
    (void)state;
    test_co_run(co_feature_names, NULL);
}

static void co_truncated(void *arg)
{
    struct image i = {.version = 3, .cluster_bits = 9, .size = 20000};
    (void)arg;
    image_make(&i, IMAGE_RANDOM);
    uint8_t *buf = malloc(i.size);
    for (uint64_t len = 0; len < i.end + 600; len += len < 1200 ? 7 : 97) {
        struct node *m = mem(len), *n = NULL;
        struct error err = {0};
        memcpy(memdisk_of(m)->data, i.file, len);
        struct value *def = schema_parse_keyval(OPEN, "driver", &err);
        int r = co_node_open(def, true, true, &n, &err);
        value_free(def);
        assert_true(!r || err.set);
        assert_true(!r || len < 2000);
        if (!r) {
            struct test_root t = test_root_open(n);
            for (uint64_t off = 0; off < i.size; off += 512) {
                size_t part = (size_t)MIN(512u, i.size - off);
                r = co_blk_pread(t.c, off, buf, part);
                /* what is there is right, or it is said to be bad, or it was cut off */
                if (!r && len >= i.end)
                    assert_memory_equal(buf, i.model + off, part);
                assert_true(!r || (r == SR_EIO && len < i.end));
            }
            test_root_close(&t);
        }
        drop(m);
    }
    free(buf);
    image_free(&i);
}

static void test_truncated(void **state)
{
    (void)state;
    test_co_run(co_truncated, NULL);
}

/* ---- tables ---- */

struct bad_entry {
    struct image i;
    unsigned word; /* of the L2 entry */
    uint64_t value;
};
#define PLAIN                                         \
    {                                                 \
        .version = 3, .cluster_bits = 9, .size = 9000 \
    }
#define EXTENDED                                                          \
    {                                                                     \
        .version = 3, .cluster_bits = 14, .size = 90000, .extended = true \
    }
static const struct bad_entry bad_entries[] = {
    {PLAIN, 0, 1ull << 50}, /* behind the file */
    {PLAIN, 0, 1ull << 63 | 1ull << 50},
    {PLAIN, 0, 1ull << 63 | 0x100ull}, /* reserved bit */
    {PLAIN, 0, 1ull << 63 | 1ull << 57 | 4096},
    {PLAIN, 0, 1ull << 62}, /* compressed, in the header */
    {PLAIN, 0, 1ull << 62 | 1ull << 45},
    {PLAIN, 0, 3ull << 61 | 300000},                         /* compressed, but zeroes there */
    {{.version = 2, .cluster_bits = 9, .size = 9000}, 0, 1}, /* zero flag in version 2 */
    {{.version = 3, .cluster_bits = 12, .size = 90000}, 0, 1ull << 63 | 4608}, /* not aligned */
    {{.version = 3, .cluster_bits = 12, .size = 90000}, 0, 4608 | 1},
    {EXTENDED, 0, 1},              /* zero flag, with subclusters */
    {EXTENDED, 1, 1ull << 32 | 1}, /* allocated and zero */
    {EXTENDED, 1, 1ull << 40 | 1ull << 8 | 1},
};

static void co_bad_entry(const struct bad_entry *bad)
{
    struct image i = bad->i;
    uint64_t cluster = 1ull << i.cluster_bits, victim = 3 * cluster;
    uint8_t *buf = malloc(i.size);
    image_make(&i, IMAGE_SEQUENTIAL);
    put_be(i.file + image_l2_entry(&i, victim) + 8 * bad->word, 8, bad->value);
    struct node *m = mem(i.file_size);
    image_put(&i, "m");
    struct test_root t = test_root_open(test_open(OPEN));
    struct blk_status st;
    assert_int_equal(co_blk_pread(t.c, victim, buf, 512), SR_EIO);
    assert_int_equal(co_blk_pread(t.c, 0, buf, i.size), SR_EIO);
    for (uint64_t off = 0; off < i.size; off += cluster) {
        size_t len = (size_t)MIN(cluster, i.size - off);
        if (off == victim)
            continue;
        assert_int_equal(co_blk_pread(t.c, off, buf, len), 0);
        assert_memory_equal(buf, i.model + off, len);
    }
    assert_int_equal(co_blk_status(t.c, 0, i.size, &st), 0);
    assert_true(st.len <= victim);
    bool compressed = bad->value >> 61 == 3; /* looks fine until it is read */
    assert_int_equal(co_blk_status(t.c, victim, 512, &st), compressed ? 0 : SR_EIO);
    test_root_close(&t);
    drop(m);
    image_free(&i);
    free(buf);
}

static void co_bad_entries(void *arg)
{
    (void)arg;
    for (unsigned k = 0; k < ARRAY_LEN(bad_entries); k++)
        co_bad_entry(&bad_entries[k]);
}

static void test_bad_entries(void **state)
{
    (void)state;
    test_co_run(co_bad_entries, NULL);
}

static void co_bad_l1(void *arg)
{
    static const uint64_t values[] = {1ull << 50, 5000, 4096 | 1, 1ull << 56 | 4096,
                                      1ull << 63 | 8};
    struct image i = {.version = 3, .cluster_bits = 9, .size = 100000};
    uint8_t buf[512];
    (void)arg;
    image_make(&i, IMAGE_SEQUENTIAL);
    for (unsigned k = 0; k < ARRAY_LEN(values); k++) {
        struct node *m = mem(i.file_size);
        image_put(&i, "m");
        put_be(memdisk_of(m)->data + i.l1 + 8, 8, values[k]);
        struct test_root t = test_root_open(test_open(OPEN));
        assert_int_equal(co_blk_pread(t.c, 40000, buf, 512), SR_EIO);
        assert_int_equal(co_blk_pread(t.c, 20000, buf, 512), 0);
        assert_memory_equal(buf, i.model + 20000, 512);
        test_root_close(&t);
        drop(m);
    }
    image_free(&i);
}

static void test_bad_l1(void **state)
{
    (void)state;
    test_co_run(co_bad_l1, NULL);
}

/* ---- snapshots ---- */

static void co_snapshots(void *arg)
{
    static const struct damage bad[] = {
        {0, 8, 512, NULL}, /* as it is */
        {36, 4, 1024, NULL},
        {36, 4, 1025, "Too much extra metadata in snapshot table entry 0"},
        {0, 8, 700, "Snapshot L1 table offset invalid"},
        {8, 4, 0x400001, "Snapshot L1 table too large"},
        {12, 2, 65535, "Failed to read snapshot table: it ends behind the file"},
    };
    struct image i = {.version = 3, .cluster_bits = 9, .size = 5000, .file_size = 20480};
    (void)arg;
    image_make(&i, IMAGE_EMPTY);
    put_be(i.file + 60, 4, 2);
    put_be(i.file + 64, 8, 8192);
    struct node *m = mem(i.file_size);
    for (unsigned k = 0; k < ARRAY_LEN(bad); k++) {
        image_put(&i, "m");
        put_be(memdisk_of(m)->data + 8192 + bad[k].at, bad[k].bytes, bad[k].value);
        if (bad[k].says)
            assert_string_equal(test_open_error(OPEN), bad[k].says);
        else
            drop(test_open(OPEN));
    }
    drop(m);
    image_free(&i);
}

static void test_snapshots(void **state)
{
    (void)state;
    test_co_run(co_snapshots, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_headers),   cmocka_unit_test(test_feature_names),
        cmocka_unit_test(test_truncated), cmocka_unit_test(test_bad_entries),
        cmocka_unit_test(test_bad_l1),    cmocka_unit_test(test_snapshots),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
