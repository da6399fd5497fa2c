/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Decompression: streams of other windows and block types than qcow2's writers use, input in pieces
 * of every size, ends at every byte, and bytes that are no stream at all. Compression: what it
 * writes reads back, fits or says that it does not, and touches nothing but its three buffers
 * (canaries: the libraries are not built with ASan).
 */
#include "tests/unit/support.h"
#include "formats/compress.h"
#include "kernel/error.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#define OUT_MAX 300000u

/* 4096 bytes of "0 1 2 ... 63 0 1 ..." by qemu-img convert -c: a compressed block with Huffman-coded
 * literals and FSE-coded sequences. */
static const uint8_t real_zstd[] = {
    /* clang-format off */
    0x28, 0xb5, 0x2f, 0xfd, 0x60, 0x00, 0x0f, 0xed, 0x02, 0x00, 0x62, 0x8b, 0x14, 0x0b, 0xb0, 0xa7,
    0x0d, 0xad, 0x11, 0x89, 0x6c, 0xcb, 0x53, 0x02, 0x11, 0x73, 0xde, 0xac, 0x19, 0xcc, 0x43, 0x16,
    0x72, 0x90, 0x47, 0x16, 0xb9, 0x32, 0xe5, 0xc9, 0x92, 0x81, 0x3c, 0xba, 0xe8, 0xa1, 0x4f, 0x97,
    0xde, 0xce, 0xbe, 0xae, 0x0e, 0xfa, 0xe0, 0x82, 0x07, 0x3e, 0x5c, 0x78, 0x39, 0xf9, 0xb8, 0x38,
    0xe0, 0x63, 0x8b, 0x1d, 0xf6, 0x6c, 0xd9, 0xdd, 0xdc, 0xdb, 0xda, 0x60, 0x0f, 0x2d, 0x74, 0xd0,
    0xa3, 0x45, 0x57, 0x53, 0x4f, 0x4b, 0x03, 0x3d, 0x16, 0x87, 0x67, 0xb9, 0xf3, 0xad, 0x41, 0x01,
    0x00, 0xb6, 0xa3, 0xe7, 0x7c, 0x23, 0x05,
    /* clang-format on */
};

static struct decompressor *state;
static uint8_t *out;

static int setup(void **arg)
{
    (void)arg;
    state = aligned_alloc(64, DECOMPRESSOR_SIZE);
    out = malloc(OUT_MAX);
    return !state || !out;
}

static int teardown(void **arg)
{
    (void)arg;
    free(state);
    free(out);
    return 0;
}

/* Each piece from a buffer of its own size, so that ASan sees a look behind it. */
static int feed(enum compression m, const uint8_t *in, size_t n, size_t len, size_t piece)
{
    decompress_begin(state, m, out, len);
    for (size_t at = 0; at < n; at += piece) {
        size_t now = n - at < piece ? n - at : piece;
        uint8_t *copy = malloc(now);
        memcpy(copy, in + at, now);
        int r = decompress(state, copy, now);
        free(copy);
        if (r)
            return r;
    }
    return 0;
}

static uint32_t lcg;
static uint8_t *content(size_t len, unsigned how)
{
    uint8_t *p = malloc(len);
    for (size_t i = 0; i < len; i++) {
        lcg = lcg * 1664525 + 1013904223;
        p[i] = how == 0 ? (uint8_t)(lcg >> 24) : how == 1 ? 7 : (uint8_t)("abcdefgh"[lcg >> 29]);
    }
    if (how == 3) /* what is 20000 bytes back again: a window above 4 KiB */
        for (size_t i = 20000; i < len; i++)
            p[i] = p[i - 20000];
    return p;
}

static void *zalloc_test(void *opaque, unsigned n, unsigned size)
{
    (void)opaque;
    return calloc(n, size);
}
static void zfree_test(void *opaque, void *p)
{
    (void)opaque;
    free(p);
}

static size_t deflated(uint8_t *to, size_t room, uint8_t *from, size_t len, int window, int level)
{
    z_stream z = {.zalloc = zalloc_test, .zfree = zfree_test};
    assert_int_equal(deflateInit2(&z, level, Z_DEFLATED, -window, 9, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = from;
    z.avail_in = (unsigned)len;
    z.next_out = to;
    z.avail_out = (unsigned)room;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    return room - z.avail_out;
}

static void test_zlib(void **arg)
{
    static const size_t pieces[] = {1, 13, 512, 32768, 1u << 30};
    const size_t len = 65536;
    uint8_t *packed = malloc(2 * len);
    (void)arg;
    for (unsigned how = 0; how < 4; how++)
        for (int window = 9; window <= 15; window += 3) {
            uint8_t *plain = content(len, how);
            size_t n = deflated(packed, 2 * len, plain, len, window, how == 2 ? 0 : 9);
            for (unsigned k = 0; k < 5; k++) {
                memset(out, 0xa5, len + 1);
                assert_int_equal(feed(COMPRESSION_ZLIB, packed, n, len, pieces[k]), 1);
                assert_memory_equal(out, plain, len);
                assert_int_equal(out[len], 0xa5);
            }
            /* Less room: a part, and nothing behind it. More room: an error, at the stream's end. */
            memset(out, 0xa5, len + 1);
            assert_int_equal(feed(COMPRESSION_ZLIB, packed, n, len - 100, 512), 1);
            assert_int_equal(out[len - 100], 0xa5);
            assert_int_equal(feed(COMPRESSION_ZLIB, packed, n, len + 1, 512), SR_EIO);
            assert_int_equal(feed(COMPRESSION_ZLIB, packed, n / 2, len, 512), 0);
            free(plain);
        }
    free(packed);
}

static void test_zstd(void **arg)
{
    const size_t len = 4096;
    uint8_t plain[4200];
    size_t at = 0;
    (void)arg;
    for (unsigned i = 0; at < len; i++)
        at += (size_t)sprintf((char *)plain + at, "%u ", i % 64);
    for (size_t piece = 1; piece <= sizeof(real_zstd); piece++) {
        memset(out, 0xa5, len + 1);
        assert_int_equal(feed(COMPRESSION_ZSTD, real_zstd, sizeof(real_zstd), len, piece), 1);
        assert_memory_equal(out, plain, len);
        assert_int_equal(out[len], 0xa5);
    }
    /* Two frames fill a longer output; one does not; half of one is an error. */
    uint8_t two[2 * sizeof(real_zstd)];
    memcpy(two, real_zstd, sizeof(real_zstd));
    memcpy(two + sizeof(real_zstd), real_zstd, sizeof(real_zstd));
    assert_int_equal(feed(COMPRESSION_ZSTD, two, sizeof(two), 2 * len, 100), 1);
    assert_memory_equal(out + len, plain, len);
    assert_int_equal(feed(COMPRESSION_ZSTD, two, sizeof(real_zstd), 2 * len, 100), 0);
    assert_int_equal(feed(COMPRESSION_ZSTD, two, sizeof(two), len / 2, 100), SR_EIO);
}

/* The longest cluster from one short run: 2 MiB of a byte in 20. */
static void test_bomb(void **arg)
{
    uint8_t frame[4 + 2 + 16 * 4], *p = frame + 6;
    const size_t len = 2u << 20;
    uint8_t *big = malloc(len + 1);
    (void)arg;
    memcpy(frame, "\x28\xb5\x2f\xfd\x00\x58", 6); /* window of 2 MiB */
    for (unsigned i = 0; i < 16; i++) {
        uint32_t head = 131072u << 3 | 2 | (i == 15);
        *p++ = (uint8_t)head;
        *p++ = (uint8_t)(head >> 8);
        *p++ = (uint8_t)(head >> 16);
        *p++ = 'z';
    }
    big[len] = 1;
    decompress_begin(state, COMPRESSION_ZSTD, big, len);
    assert_int_equal(decompress(state, frame, sizeof(frame)), 1);
    assert_true(big[0] == 'z' && big[len - 1] == 'z' && big[len] == 1);
    decompress_begin(state, COMPRESSION_ZSTD, big, len / 2 + 5);
    assert_int_equal(decompress(state, frame, sizeof(frame)), SR_EIO);
    free(big);
}

static void test_garbage(void **arg)
{
    uint8_t in[600];
    (void)arg;
    for (unsigned round = 0; round < 4000; round++) {
        enum compression m = round & 1 ? COMPRESSION_ZSTD : COMPRESSION_ZLIB;
        size_t n = sizeof(in);
        uint8_t *noise = content(n, 0);
        memcpy(in, noise, n);
        free(noise);
        if (m == COMPRESSION_ZSTD) { /* a real frame with a few bytes changed */
            n = sizeof(real_zstd);
            unsigned at = (lcg >> 8) % n, bits = 1u << (lcg >> 29);
            memcpy(in, real_zstd, MIN(n, sizeof(in)));
            n = MIN(n, sizeof(in));
            in[at % n] ^= (uint8_t)bits;
        }
        out[5000] = 0xa5;
        int r = feed(m, in, n, 5000, 1 + (lcg >> 16) % 700);
        assert_true(r == 0 || r == 1 || r == SR_EIO);
        assert_int_equal(out[5000], 0xa5);
    }
}

/* ---- compressing ---- */

#define CANARY 64
static uint8_t *guarded(size_t n)
{
    uint8_t *p = aligned_alloc(16, align_up(n + CANARY, 16));
    memset(p, 0xa5, n + CANARY);
    return p;
}

static void check_canary(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < CANARY; i++)
        assert_int_equal(p[n + i], 0xa5);
}

static int squeeze(enum compression m, const uint8_t *in, size_t len, uint8_t *to, size_t room)
{
    size_t size = compressor_size(m, len);
    uint8_t *c = guarded(size), *packed = guarded(room);
    int r = compress_all((struct compressor *)(void *)c, m, in, len, packed, room);
    check_canary(c, size);
    check_canary(packed, room);
    if (r > 0)
        memcpy(to, packed, (size_t)r);
    free(c), free(packed);
    return r;
}

static void check_round_trip(enum compression m, unsigned how, size_t len)
{
    const size_t room = len + len / 8 + 100;
    uint8_t *plain = content(len, how), *packed = malloc(room), *back = malloc(len);
    int n = squeeze(m, plain, len, packed, room);
    assert_in_range(n, 1, room);
    if (how && len >= 512)
        assert_in_range(n, 1, len * 3 / 4);
    decompress_begin(state, m, back, len);
    assert_int_equal(decompress(state, packed, (size_t)n), 1);
    assert_memory_equal(back, plain, len);

    /* The same bytes in exact room, none in one byte less. */
    size_t slack = m == COMPRESSION_ZSTD ? 16 : 1;
    uint8_t *again = malloc((size_t)n + slack), *less = malloc((size_t)n - 1);
    assert_int_equal(squeeze(m, plain, len, again, (size_t)n + slack), n);
    assert_memory_equal(again, packed, (size_t)n);
    if (n > 1)
        assert_int_equal(squeeze(m, plain, len, less, (size_t)n - 1), SR_ENOSPC);
    free(plain), free(packed), free(back), free(again), free(less);
}

static void test_round_trips(void **arg)
{
    (void)arg;
    for (unsigned how = 0; how < 4; how++)
        for (size_t len = 512; len <= COMPRESS_MAX; len *= how & 1 ? 2 : 4) {
            check_round_trip(COMPRESSION_ZLIB, how, len);
            check_round_trip(COMPRESSION_ZSTD, how, len);
        }
    for (size_t len = 1; len < 300; len += 13) {
        check_round_trip(COMPRESSION_ZLIB, len & 3, len);
        check_round_trip(COMPRESSION_ZSTD, len & 3, len);
    }
}

/* Noise does not become shorter; a cluster of zeroes becomes next to nothing. */
static void test_extremes(void **arg)
{
    const size_t sizes[] = {512, 4096, 65536, COMPRESS_MAX};
    (void)arg;
    for (unsigned i = 0; i < 4; i++)
        for (enum compression m = COMPRESSION_ZLIB; m <= COMPRESSION_ZSTD; m++) {
            uint8_t *noise = content(sizes[i], 0), *packed = malloc(sizes[i]);
            assert_int_equal(squeeze(m, noise, sizes[i], packed, sizes[i] - 1), SR_ENOSPC);
            memset(noise, 0, sizes[i]);
            assert_in_range(squeeze(m, noise, sizes[i], packed, sizes[i] - 1), 1,
                            sizes[i] / 500 + 30);
            free(noise), free(packed);
        }
}

/* Rooms of every size up to what is needed: an answer, and nothing behind the room. */
static void test_rooms(void **arg)
{
    const size_t len = 1024;
    (void)arg;
    for (enum compression m = COMPRESSION_ZLIB; m <= COMPRESSION_ZSTD; m++)
        for (unsigned how = 0; how < 4; how++) {
            uint8_t *plain = content(len, how);
            for (size_t room = 1; room <= len + 32; room++) {
                uint8_t *packed = malloc(room);
                int n = squeeze(m, plain, len, packed, room);
                assert_true(n == SR_ENOSPC || (n > 0 && (size_t)n <= room));
                free(packed);
            }
            free(plain);
        }
}

/* On a big stack there is room for it: 128 KiB, less what calling it takes. */
static void *painted_run(void *arg)
{
    struct compressor *c =
        aligned_alloc(16, align_up(compressor_size(COMPRESSION_ZSTD, 1u << 20), 16));
    uint8_t *plain = content(1u << 20, 3), *packed = malloc(1u << 20);
    (void)arg;
    assert_true(compress_all(c, COMPRESSION_ZLIB, plain, 1u << 20, packed, 1u << 20) > 0);
    assert_true(compress_all(c, COMPRESSION_ZSTD, plain, 1u << 20, packed, 1u << 20) > 0);
    free(c), free(plain), free(packed);
    return NULL;
}

static void test_stack(void **arg)
{
    const size_t size = 1u << 20;
    uint8_t *stack = aligned_alloc(4096, size);
    pthread_attr_t attr;
    pthread_t thread;
    size_t low = 0;
    (void)arg;
    memset(stack, 0xa5, size);
    pthread_attr_init(&attr);
    pthread_attr_setstack(&attr, stack, size);
    assert_int_equal(pthread_create(&thread, &attr, painted_run, NULL), 0);
    pthread_join(thread, NULL);
    while (stack[low] == 0xa5)
        low++;
    printf("stack: %zu bytes\n", size - low);
    assert_in_range(size - low, 1, 64u << 10);
    free(stack);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_zlib),        cmocka_unit_test(test_zstd),
        cmocka_unit_test(test_bomb),        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_round_trips), cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_rooms),       cmocka_unit_test(test_stack),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
