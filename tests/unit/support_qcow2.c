/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Layout of the images: header, refcount table (there, but empty: readers do not look), L1 table,
 * then L2 tables and data as they come, with random gaps.
 */
#include "tests/unit/support_qcow2.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

void put_be(uint8_t *at, unsigned bytes, uint64_t v)
{
    while (bytes--) {
        at[bytes] = (uint8_t)v;
        v >>= 8;
    }
}

uint64_t get_be(const uint8_t *at, unsigned bytes)
{
    uint64_t v = 0;
    while (bytes--)
        v = v << 8 | *at++;
    return v;
}

static uint64_t cluster(const struct image *i)
{
    return 1ull << i->cluster_bits;
}

static uint64_t entries(const struct image *i)
{
    return cluster(i) / (i->extended ? 16 : 8);
}

static uint64_t clusters(const struct image *i)
{
    return (i->size + cluster(i) - 1) / cluster(i);
}

/* ---- header ---- */

static uint8_t *extension(uint8_t *at, uint32_t type, const void *data, size_t len)
{
    put_be(at, 4, type);
    put_be(at + 4, 4, len);
    memcpy(at + 8, data, len);
    return at + 8 + (len + 7) / 8 * 8;
}

static void make_header(struct image *i)
{
    uint64_t l1_size = (clusters(i) + entries(i) - 1) / entries(i);
    uint64_t l1_clusters = (l1_size * 8 + cluster(i) - 1) / cluster(i);
    uint8_t *h = i->file, *at = h + 72;
    put_be(h, 4, 0x514649fb);
    put_be(h + 4, 4, i->version);
    put_be(h + 20, 4, i->cluster_bits);
    put_be(h + 24, 8, i->size);
    put_be(h + 36, 4, l1_size);
    put_be(h + 40, 8, 2 * cluster(i));
    put_be(h + 48, 8, cluster(i));
    put_be(h + 56, 4, 1);
    if (i->version == 3) {
        put_be(h + 72, 8, (i->external ? 4 : 0) | (i->zstd ? 8 : 0) | (i->extended ? 16 : 0));
        put_be(h + 96, 4, 4);
        put_be(h + 100, 4, 112);
        h[104] = i->zstd;
        at = h + 112;
    }
    if (i->format)
        at = extension(at, 0xe2792aca, i->format, strlen(i->format));
    at = extension(at, 0x12345678, "unknown", 7);
    at = extension(at, 0, "", 0);
    if (i->backing) {
        put_be(h + 8, 8, (uint64_t)(at - h));
        put_be(h + 16, 4, strlen(i->backing));
        memcpy(at, i->backing, strlen(i->backing));
    }
    i->l1 = 2 * cluster(i);
    i->end = (2 + l1_clusters) * cluster(i);
}

/* ---- allocation ---- */

static uint64_t allocate(struct image *i)
{
    if (test_random() % 4 == 0 && i->end + 200 * cluster(i) < i->file_size)
        i->end += (test_random() % 3) * cluster(i);
    uint64_t at = (i->end + cluster(i) - 1) / cluster(i) * cluster(i);
    assert_true(at + cluster(i) <= i->file_size);
    i->end = at + cluster(i);
    return at;
}

uint64_t image_l2_entry(const struct image *i, uint64_t guest)
{
    uint64_t n = guest / cluster(i), width = i->extended ? 16 : 8;
    uint64_t table = get_be(i->file + i->l1 + n / entries(i) * 8, 8) & 0x00fffffffffffe00ull;
    return table ? table + n % entries(i) * width : 0;
}

static uint8_t *entry_for(struct image *i, uint64_t n)
{
    uint8_t *l1 = i->file + i->l1 + n / entries(i) * 8;
    if (!get_be(l1, 8))
        put_be(l1, 8, allocate(i) | 1ull << 63);
    return i->file + image_l2_entry(i, n * cluster(i));
}

/* ---- content ---- */

static void fill(uint8_t *p, size_t len)
{
    uint32_t v = test_random();
    unsigned how = test_random() % 3;
    for (size_t k = 0; k < len; k++)
        p[k] = (uint8_t)(how == 0 ? test_random() : how == 1 ? v : (v += k & 7));
}

static void set_model(struct image *i, uint64_t off, const uint8_t *from, uint64_t len,
                      enum image_sector kind)
{
    len = off < i->size ? MIN(len, i->size - off) : 0;
    if (!len)
        return;
    if (from)
        memcpy(i->model + off, from, len);
    else
        memset(i->model + off, 0, len);
    memset(i->kind + off / 512, kind, (len + 511) / 512);
}

static void put_data(struct image *i, uint64_t n, const uint8_t *content)
{
    uint64_t host = i->external ? n * cluster(i) : allocate(i);
    uint8_t *p = (i->external ? i->data : i->file) + host;
    if (content)
        memcpy(p, content, cluster(i));
    else
        fill(p, cluster(i));
    uint8_t *e = entry_for(i, n);
    put_be(e, 8, host | 1ull << 63);
    if (i->extended)
        put_be(e + 8, 8, 0xffffffff);
    set_model(i, n * cluster(i), p, cluster(i), IMAGE_DATA);
}

static void put_zero(struct image *i, uint64_t n)
{
    uint64_t host = !i->external && test_random() % 2 ? allocate(i) | 1ull << 63 : 0;
    put_be(entry_for(i, n), 8, host | 1);
    set_model(i, n * cluster(i), NULL, cluster(i), IMAGE_ZERO);
}

static void put_subclusters(struct image *i, uint64_t n)
{
    uint64_t host = i->external ? n * cluster(i) : allocate(i), sub = cluster(i) / 32, map = 0;
    uint8_t *p = (i->external ? i->data : i->file) + host, *e = entry_for(i, n);
    unsigned how = test_random();
    fill(p, cluster(i));
    for (unsigned k = 0; k < 32; k++) {
        if (test_random() % 3 == 0)
            how = test_random();
        uint64_t at = n * cluster(i) + k * sub;
        if (how % 3 == 0) {
            map |= 1ull << k;
            set_model(i, at, p + k * sub, sub, IMAGE_DATA);
        } else if (how % 3 == 1) {
            map |= 1ull << (k + 32);
            set_model(i, at, NULL, sub, IMAGE_ZERO);
        }
    }
    put_be(e, 8, host | 1ull << 63);
    put_be(e + 8, 8, map);
}

/* A zstd frame of raw and run-length blocks, by hand: no compressor is linked. */
static size_t zstd_frame(uint8_t *to, const uint8_t *from, size_t len)
{
    uint8_t *p = to;
    put_be(p, 4, 0x28b52ffd);
    p[4] = 0xa0; /* single segment, content size in 4 bytes */
    for (unsigned k = 0; k < 4; k++)
        p[5 + k] = (uint8_t)(len >> 8 * k);
    p += 9;
    while (len) {
        size_t n = MIN(len, (size_t)65536);
        bool run = !memcmp(from, from + 1, n - 1);
        uint32_t head = (uint32_t)(n << 3) | (run ? 2 : 0) | (n == len);
        for (unsigned k = 0; k < 3; k++)
            *p++ = (uint8_t)(head >> 8 * k);
        memcpy(p, from, run ? 1 : n);
        p += run ? 1 : n;
        from += n;
        len -= n;
    }
    return (size_t)(p - to);
}

static void *zlib_alloc(void *opaque, unsigned n, unsigned size)
{
    (void)opaque;
    return calloc(n, size);
}
static void zlib_free(void *opaque, void *p)
{
    (void)opaque;
    free(p);
}

static size_t deflated(uint8_t *to, size_t room, uint8_t *from, size_t len)
{
    z_stream z = {.zalloc = zlib_alloc, .zfree = zlib_free};
    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = from;
    z.avail_in = (unsigned)len;
    z.next_out = to;
    z.avail_out = (unsigned)room;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    return room - z.avail_out;
}

static void put_compressed(struct image *i, uint64_t n)
{
    uint8_t *plain = malloc(cluster(i)), *packed = malloc(2 * cluster(i) + 100);
    fill(plain, cluster(i));
    if (test_random() % 2 == 0)
        memset(plain, (int)test_random(), cluster(i));
    if (i->content)
        memcpy(plain, i->content + n * cluster(i), cluster(i));
    size_t len = i->zstd ? zstd_frame(packed, plain, cluster(i))
                         : deflated(packed, 2 * cluster(i) + 100, plain, cluster(i));
    uint64_t host = i->end + test_random() % 9, shift = 62 - (i->cluster_bits - 8);
    uint64_t sectors = (host % 512 + len - 1) / 512;
    if (sectors < 1ull << (i->cluster_bits - 8) && host + len <= i->file_size) {
        uint8_t *e = entry_for(i, n); /* may allocate: before our bytes */
        host = i->end + test_random() % 9;
        sectors = (host % 512 + len - 1) / 512;
        if (sectors < 1ull << (i->cluster_bits - 8)) {
            memcpy(i->file + host, packed, len);
            i->end = host + len;
            put_be(e, 8, host | sectors << shift | 1ull << 62);
            set_model(i, n * cluster(i), plain, cluster(i), IMAGE_DATA);
        }
    }
    if (i->content && !get_be(entry_for(i, n), 8))
        put_data(i, n, plain);
    free(plain);
    free(packed);
}

static void put_any(struct image *i, uint64_t n, unsigned how)
{
    if (how < 3)
        put_data(i, n, NULL);
    else if (how < 5 && i->extended)
        put_subclusters(i, n);
    else if (how < 5 && i->version == 3)
        put_zero(i, n);
    else if (how < 7 && !i->external)
        put_compressed(i, n);
}

void image_make(struct image *i, enum image_kind kind)
{
    unsigned how = 0;
    if (!i->file_size)
        i->file_size = 3 * i->size + 600 * cluster(i);
    i->file = calloc(1, i->file_size);
    i->data = i->external ? calloc(1, clusters(i) * cluster(i)) : NULL;
    i->model = calloc(1, i->size + 1);
    i->kind = calloc(1, i->size / 512 + 1);
    if (i->below)
        memcpy(i->model, i->below, MIN(i->size, i->below_size));
    make_header(i);
    for (uint64_t n = 0; n < clusters(i); n++) {
        if (test_random() % 3 == 0)
            how = test_random() % 10;
        if (kind == IMAGE_RANDOM)
            put_any(i, n, how);
        else if (kind == IMAGE_SEQUENTIAL)
            put_data(i, n, NULL);
        else if (kind == IMAGE_COMPRESSED)
            put_compressed(i, n);
    }
}

void image_free(struct image *i)
{
    free(i->file);
    free(i->data);
    free(i->model);
    free(i->kind);
}

void image_put(const struct image *i, const char *node)
{
    struct node *n = node_find(node);
    assert_int_equal(n->size, i->file_size);
    memcpy(memdisk_of(n)->data, i->file, i->file_size);
}
