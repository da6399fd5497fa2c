/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * NBD transmission, clause by clause of doc/proto.md (and its branch extension-ext-header), against
 * the whole server on memory disks. What holds in every mode is tested in all three.
 */
#include "tests/unit/support_nbd.h"

#include <stdlib.h>
#include <string.h>

#include "kernel/kernel.h"
#include "net/nbd/nbd.h"

#define SIZE     (1u << 20)
#define BIG_SIZE (33u << 20)

static struct memdisk *plain, *big, *blocks;

/* "plain": everything native. "blocks": 512-byte blocks, nothing native. */
static void co_setup(void)
{
    if (plain)
        return;
    plain = memdisk_of(nbd_test_export("plain", "size=1M,fua=on,write-zeroes=on,discards=on",
                                       "id=plain,name=plain,writable=on"));
    big = memdisk_of(nbd_test_export("big", "size=33M", "id=big,name=big,writable=on"));
    blocks = memdisk_of(
        nbd_test_export("blocks", "size=1M,request-alignment=512", "id=b,name=blocks,writable=on"));
    nbd_test_export("fixed", "size=1M", "id=ro,name=ro");
}

static void reset(struct memdisk *m, uint64_t size)
{
    fill_pattern(m->data, 0, size);
    memset(m->sector, SECTOR_DATA, size / MEM_SECTOR);
    memdisk_forget(m);
}

/* A test body runs once per mode, with a client of export "plain". */
#define TEST(name)                                       \
    static void co_##name(struct client *c);             \
    static void body_##name(void *arg)                   \
    {                                                    \
        (void)arg;                                       \
        co_setup();                                      \
        for (enum mode m = SIMPLE; m <= EXTENDED; m++) { \
            struct client client;                        \
            reset(plain, SIZE);                          \
            client_open(&client, "plain", m);            \
            co_##name(&client);                          \
            client_close(&client);                       \
        }                                                \
    }                                                    \
    static void test_##name(void **state)                \
    {                                                    \
        (void)state;                                     \
        test_co_run(body_##name, NULL);                  \
    }                                                    \
    static void co_##name(struct client *c)

static void other(struct client *c, const char *export)
{
    enum mode m = c->mode;
    client_close(c);
    client_open(c, export, m);
}

static void expect_alive(struct client *c)
{
    uint8_t b;
    assert_int_equal(do_read(c, 77, &b, 1), 0);
}

/* ---- flags ---- */

TEST(flags)
{
    unsigned always = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA |
                      NBD_FLAG_CAN_MULTI_CONN | NBD_FLAG_SEND_CACHE;
    unsigned rw = NBD_FLAG_SEND_TRIM | NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO;
    unsigned mode = c->mode == SIMPLE       ? 0
                    : c->mode == STRUCTURED ? NBD_FLAG_SEND_DF
                                            : NBD_FLAG_SEND_DF | NBD_FLAG_BLOCK_STATUS_PAYLOAD;
    assert_int_equal(c->flags, always | rw | mode);
    other(c, "ro");
    assert_int_equal(c->flags, always | NBD_FLAG_READ_ONLY | mode);
}

/* ---- READ and WRITE ---- */

TEST(read_write)
{
    uint8_t out[3000], in[3000];
    for (unsigned i = 0; i < sizeof(out); i++)
        out[i] = (uint8_t)(i * 31);
    assert_int_equal(do_write(c, 0, 4321, out, sizeof(out)), 0);
    assert_int_equal(do_read(c, 4321, in, sizeof(in)), 0);
    assert_memory_equal(in, out, sizeof(in));
    assert_memory_equal(plain->data + 4321, out, sizeof(out));
    assert_int_equal(plain->data[4320], pattern(4320));
    assert_int_equal(plain->data[7321], pattern(7321));
    assert_int_equal(do_read(c, SIZE - 1, in, 1), 0);
    assert_int_equal(do_write(c, 0, SIZE - 1, in, 1), 0);
    /* Of length 0: "SHOULD NOT disconnect". */
    assert_int_equal(do_read(c, 0, in, 0), 0);
    assert_int_equal(do_write(c, 0, 0, in, 0), 0);
    assert_int_equal(do_cmd(c, NBD_CMD_TRIM, 0, 0, 0), 0);
    assert_int_equal(do_cmd(c, NBD_CMD_WRITE_ZEROES, 0, 0, 0), 0);
}

/* Cookies are opaque, echoed, and replies come in any order. */
TEST(cookies)
{
    uint8_t a[512], b[512];
    memdisk_hold(plain, MEM_WRITE);
    memset(a, 1, sizeof(a));
    say_write(c, 0, 0x0102030405060708, 0, a, sizeof(a));
    say_request(c, NBD_CMD_READ, 0, 0xfffefdfcfbfaf9f8, 4096, sizeof(b));
    assert_int_equal(hear_read(c, 0xfffefdfcfbfaf9f8, 4096, b, sizeof(b), NULL, NULL), 0);
    memdisk_release(plain);
    assert_int_equal(hear_status(c, 0x0102030405060708, 0), 0);
}

/* 32 MiB in one request, at pools of minimum size; and what is read is what was written. */
TEST(long_requests)
{
    uint8_t *p = malloc(NBD_MAX_PAYLOAD), *q = calloc(1, NBD_MAX_PAYLOAD);
    other(c, "big");
    reset(big, BIG_SIZE);
    fill_pattern(p, 3, NBD_MAX_PAYLOAD);
    assert_int_equal(do_write(c, 0, 12345, p, NBD_MAX_PAYLOAD), 0);
    assert_memory_equal(big->data + 12345, p, NBD_MAX_PAYLOAD);
    assert_int_equal(do_read(c, 12345, q, NBD_MAX_PAYLOAD), 0);
    assert_memory_equal(p, q, NBD_MAX_PAYLOAD);
    for (int i = 0; i < 6; i++) /* more of them at a time than may be read in pieces */
        say_request(c, NBD_CMD_READ, 0, 7, 1000, 3u << 20);
    if (c->mode == SIMPLE)
        for (int i = 0; i < 6; i++) {
            assert_int_equal(hear_read(c, 7, 1000, q, 3u << 20, NULL, NULL), 0);
            assert_memory_equal(q, big->data + 1000, 3u << 20);
        }
    free(p);
    free(q);
}

/* ---- checks ---- */

TEST(ranges)
{
    static const uint64_t bad[][2] = {{SIZE, 1},       {SIZE - 1, 2},           {0, SIZE + 1},
                                      {UINT64_MAX, 1}, {UINT64_MAX - 511, 512}, {1ull << 63, 4096}};
    uint8_t *b = calloc(1, SIZE + 1);
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        assert_int_equal(do_read(c, bad[i][0], b, bad[i][1]), NBD_EINVAL);
        assert_int_equal(do_write(c, 0, bad[i][0], b, bad[i][1]), NBD_ENOSPC);
        assert_int_equal(do_cmd(c, NBD_CMD_TRIM, 0, bad[i][0], bad[i][1]), NBD_EINVAL);
        assert_int_equal(do_cmd(c, NBD_CMD_CACHE, 0, bad[i][0], bad[i][1]), NBD_EINVAL);
        assert_int_equal(do_cmd(c, NBD_CMD_WRITE_ZEROES, 0, bad[i][0], bad[i][1]), NBD_ENOSPC);
        assert_int_equal(do_cmd(c, NBD_CMD_BLOCK_STATUS, 0, bad[i][0], bad[i][1]), NBD_EINVAL);
    }
    for (unsigned i = 0; i < SIZE; i += 4096)
        assert_int_equal(plain->data[i], pattern(i));
    free(b);
}

/* "SHOULD return NBD_EPERM if it receives a write or trim request on a read-only export" */
TEST(read_only)
{
    uint8_t b[100] = {0};
    other(c, "ro");
    assert_int_equal(do_write(c, 0, 0, b, sizeof(b)), NBD_EPERM);
    assert_int_equal(do_cmd(c, NBD_CMD_TRIM, 0, 0, 512), NBD_EPERM);
    assert_int_equal(do_cmd(c, NBD_CMD_WRITE_ZEROES, 0, 0, 512), NBD_EPERM);
    assert_int_equal(do_cmd(c, NBD_CMD_FLUSH, 0, 0, 0), 0);
    assert_int_equal(do_cmd(c, NBD_CMD_CACHE, 0, 0, 512), 0);
    assert_int_equal(do_read(c, 0, b, sizeof(b)), 0);
}

/* Unknown commands, and flags that do not belong to the command: EINVAL, still in step. */
TEST(unknown)
{
    static const struct {
        uint16_t type, allowed;
    } cmds[] = {
        {NBD_CMD_READ, NBD_CMD_FLAG_DF},
        {NBD_CMD_TRIM, 0},
        {NBD_CMD_CACHE, 0},
        {NBD_CMD_FLUSH, 0},
        {NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO},
        {NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_REQ_ONE},
    };
    uint8_t b[512];
    for (uint32_t type = 8; type < 0x10000; type = type * 2 + 1)
        assert_int_equal(do_cmd(c, (uint16_t)type, 0, 0, 512), NBD_EINVAL);
    for (unsigned i = 0; i < ARRAY_LEN(cmds); i++)
        for (int bit = 1; bit < 16; bit++) {
            uint16_t flag = (uint16_t)(1u << bit);
            if (flag & cmds[i].allowed || flag == NBD_CMD_FLAG_PAYLOAD_LEN)
                continue;
            uint64_t len = cmds[i].type == NBD_CMD_FLUSH ? 0 : 512;
            assert_int_equal(do_cmd(c, cmds[i].type, flag, 0, len), NBD_EINVAL);
        }
    if (c->mode == SIMPLE) /* DF needs structured replies */
        assert_int_equal(do_cmd(c, NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 512), NBD_EINVAL);
    /* A WRITE that is refused has its payload read. */
    assert_int_equal(do_write(c, NBD_CMD_FLAG_DF, 0, b, sizeof(b)), NBD_EINVAL);
    if (c->mode != EXTENDED) /* "the client MUST NOT use the PAYLOAD_LEN flag" */
        assert_int_equal(do_write(c, NBD_CMD_FLAG_PAYLOAD_LEN, 0, b, sizeof(b)), NBD_EINVAL);
    assert_int_equal(plain->count[MEM_WRITE], 0);
    expect_alive(c);
}

/* Any offset and length, whatever the disk's blocks are, asked for NBD_INFO_BLOCK_SIZE or not. */
TEST(alignment)
{
    uint8_t b[1024] = {0};
    enum mode m = c->mode;
    reset(blocks, SIZE);
    other(c, "blocks");
    assert_int_equal(do_write(c, 0, 100, b, 5), 0);
    assert_int_equal(do_read(c, 99, b, 7), 0);
    assert_int_equal(b[0], pattern(99));
    assert_int_equal(b[1], 0);
    assert_int_equal(b[6], pattern(105));
    client_close(c);
    client_hello(c, NULL);
    client_go(c, "blocks", m, m != SIMPLE, true);
    assert_int_equal(do_write(c, 0, 300, b, 5), 0);
    assert_int_equal(do_read(c, 299, b, 7), 0);
    assert_int_equal(b[0], pattern(299));
    assert_int_equal(b[6], pattern(305));
    assert_int_equal(do_cmd(c, NBD_CMD_TRIM, 0, 512, 511), 0);
}

/* ---- durability ---- */

/* "All write commands that the server completes prior to processing a FLUSH MUST be written to
 * non-volatile storage prior to replying to that FLUSH": also those of another connection. */
TEST(flush)
{
    struct client two;
    uint8_t b[512] = {0};
    client_open(&two, "plain", c->mode);
    assert_int_equal(do_write(&two, 0, 0, b, sizeof(b)), 0);
    memdisk_hold(plain, MEM_FLUSH);
    say_request(c, NBD_CMD_FLUSH, 0, 9, 0, 0);
    hear_nothing(c);
    assert_int_equal(plain->count[MEM_FLUSH], 1);
    memdisk_release(plain);
    assert_int_equal(hear_status(c, 9, 0), 0);
    /* "length and offset are reserved, and MUST be set to all-zero" */
    assert_int_equal(do_cmd(c, NBD_CMD_FLUSH, 0, 1, 0), NBD_EINVAL);
    assert_int_equal(do_cmd(c, NBD_CMD_FLUSH, 0, 0, 1), NBD_EINVAL);
    client_close(&two);
}

/* "MUST NOT reply to a command that has FUA set until the data is persisted"; "MUST accept all
 * commands with this bit set" */
TEST(fua)
{
    uint8_t b[512] = {0};
    assert_int_equal(do_write(c, NBD_CMD_FLAG_FUA, 0, b, sizeof(b)), 0);
    assert_true(plain->flags_seen & BLK_FUA);
    memdisk_forget(plain);
    plain->flags_seen = 0;
    assert_int_equal(do_cmd(c, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FUA, 0, 512), 0);
    assert_true(plain->flags_seen & BLK_FUA);
    memdisk_forget(plain);
    assert_int_equal(do_cmd(c, NBD_CMD_TRIM, NBD_CMD_FLAG_FUA, 0, 512), 0);
    assert_int_equal(plain->count[MEM_FLUSH], 1);
    say_request(c, NBD_CMD_READ, NBD_CMD_FLAG_FUA, 1, 512, 512);
    assert_int_equal(hear_read(c, 1, 512, b, 512, NULL, NULL), 0);
    assert_int_equal(do_cmd(c, NBD_CMD_FLUSH, NBD_CMD_FLAG_FUA, 0, 0), 0);
    assert_int_equal(do_cmd(c, NBD_CMD_CACHE, NBD_CMD_FLAG_FUA, 0, 512), 0);
    other(c, "blocks"); /* a disk without FUA: a flush, and in the right order */
    memdisk_forget(blocks);
    memdisk_hold(blocks, MEM_FLUSH);
    say_write(c, NBD_CMD_FLAG_FUA, 3, 0, b, sizeof(b));
    hear_nothing(c);
    assert_int_equal(blocks->count[MEM_WRITE], 1);
    memdisk_release(blocks);
    assert_int_equal(hear_status(c, 3, 0), 0);
}

/* ---- TRIM, WRITE_ZEROES, CACHE ---- */

/* "MUST ensure that the data reads back as zero"; NO_HOLE: stays provisioned */
TEST(write_zeroes)
{
    uint8_t b[4096];
    plain->flags_seen = 0;
    assert_int_equal(do_cmd(c, NBD_CMD_WRITE_ZEROES, 0, 4096, 8192), 0);
    assert_true(plain->flags_seen & BLK_MAY_UNMAP);
    assert_int_equal(do_read(c, 8192, b, 4096), 0);
    for (unsigned i = 0; i < 4096; i++)
        assert_int_equal(b[i], 0);
    plain->flags_seen = 0;
    assert_int_equal(do_cmd(c, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_NO_HOLE, 512, 512), 0);
    assert_false(plain->flags_seen & BLK_MAY_UNMAP);
    assert_int_equal(plain->data[512], 0);
    /* FAST_ZERO where it is fast, and where it is not: ENOTSUP at once, nothing changed. */
    assert_int_equal(do_cmd(c, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO, 65536, 512), 0);
    reset(blocks, SIZE);
    other(c, "blocks");
    assert_int_equal(do_cmd(c, NBD_CMD_WRITE_ZEROES, NBD_CMD_FLAG_FAST_ZERO, 0, SIZE), NBD_ENOTSUP);
    assert_int_equal(blocks->count[MEM_WRITE], 0);
    /* "is not set, then the server MUST NOT fail with NBD_ENOTSUP" */
    assert_int_equal(do_cmd(c, NBD_CMD_WRITE_ZEROES, 0, 0, SIZE), 0);
    for (unsigned i = 0; i < SIZE; i += 512)
        assert_int_equal(blocks->data[i], 0);
}

TEST(trim_cache)
{
    uint64_t reads = plain->count[MEM_READ];
    assert_int_equal(do_cmd(c, NBD_CMD_TRIM, 0, 0, 65536), 0);
    assert_int_equal(plain->count[MEM_DISCARD], 1);
    assert_int_equal(do_cmd(c, NBD_CMD_CACHE, 0, 65536, 65536), 0);
    assert_int_equal(plain->data[65536], pattern(65536));
    assert_in_range(plain->count[MEM_READ], reads, reads + 1);
    other(c, "blocks"); /* where nothing can be trimmed, the hint is ignored */
    assert_int_equal(do_cmd(c, NBD_CMD_TRIM, 0, 0, 65536), 0);
}

/* ---- errors ---- */

TEST(io_errors)
{
    uint8_t *b = malloc(SIZE);
    fault_arm(FAULT_READ, 1, false);
    assert_int_equal(do_read(c, 0, b, 512), NBD_EIO);
    fault_arm(FAULT_WRITE, 1, false);
    assert_int_equal(do_write(c, 0, 0, b, 512), NBD_EIO);
    fault_arm(FAULT_WRITE, 2, false); /* in the midst of a long payload: the rest is read */
    assert_int_equal(do_write(c, 0, 0, b, SIZE), NBD_EIO);
    fault_arm(FAULT_WRITE, 1, false);
    assert_int_equal(do_cmd(c, NBD_CMD_WRITE_ZEROES, 0, 0, 512), NBD_EIO);
    assert_int_equal(do_write(c, 0, 0, b, 512), 0);
    fault_arm(FAULT_FLUSH, 1, false);
    assert_int_equal(do_cmd(c, NBD_CMD_FLUSH, 0, 0, 0), NBD_EIO);
    fault_arm(FAULT_FLUSH, 0, false);
    expect_alive(c);
    free(b);
}

/* A long read that fails after the first piece. Simple: "MUST immediately initiate a hard
 * disconnect"; chunks: an error that names the place; DF: the chunk filled up, then the error. */
TEST(late_read_error)
{
    uint8_t *b = malloc(4u << 20);
    unsigned chunks = 0;
    other(c, "big");
    reset(big, BIG_SIZE);
    fault_arm(FAULT_READ, 3, false);
    if (c->mode == SIMPLE) {
        say_request(c, NBD_CMD_READ, 0, 1, 0, 4u << 20);
        assert_int_equal(hear32(c), NBD_SIMPLE_REPLY_MAGIC);
        assert_int_equal(hear32(c), 0);
        int rc = co_stream_read(c->s, b, 8 + (4u << 20), board_clock_ns() + 5000000000);
        assert_true(rc == SR_EOF || rc == SR_EIO);
    } else {
        assert_int_equal(do_read(c, 0, b, 4u << 20), NBD_EIO);
        fault_arm(FAULT_READ, 3, false);
        say_request(c, NBD_CMD_READ, NBD_CMD_FLAG_DF, 2, 0, 4u << 20);
        assert_int_equal(hear_read(c, 2, 0, b, 4u << 20, &chunks, NULL), NBD_EIO);
        assert_int_equal(chunks, 1);
        expect_alive(c);
    }
    free(b);
}

/* ---- structured reads ---- */

/* DF: "the server MUST send at most one content chunk", and support 64 KiB at least */
TEST(df)
{
    static const uint32_t sizes[] = {1, 512, 65536, 300000, SIZE};
    uint8_t *b = malloc(SIZE);
    if (c->mode == SIMPLE)
        return free(b);
    memset(plain->data + 8192, 0, 300000);
    for (unsigned i = 8192 / 512; i < 8192 / 512 + 300; i++)
        plain->sector[i] = SECTOR_ZERO;
    for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
        unsigned chunks = 0, holes = 0;
        say_request(c, NBD_CMD_READ, NBD_CMD_FLAG_DF, 3, 0, sizes[i]);
        assert_int_equal(hear_read(c, 3, 0, b, sizes[i], &chunks, &holes), 0);
        assert_int_equal(chunks, 1);
        assert_int_equal(holes, 0);
        assert_memory_equal(b, plain->data, sizes[i]);
    }
    free(b);
}

/* Holes go as holes: once each, data around them, nothing overlaps (hear_read checks). */
TEST(sparse_read)
{
    uint8_t *b = malloc(SIZE);
    unsigned chunks = 0, holes = 0;
    memset(plain->data + 65536, 0, 131072);
    memset(plain->data + 524288, 0, SIZE - 524288);
    memset(plain->sector + 65536 / 512, SECTOR_ZERO, 131072 / 512);
    memset(plain->sector + 524288 / 512, SECTOR_ZERO, (SIZE - 524288) / 512);
    say_request(c, NBD_CMD_READ, 0, 4, 0, SIZE);
    assert_int_equal(hear_read(c, 4, 0, b, SIZE, &chunks, &holes), 0);
    assert_memory_equal(b, plain->data, SIZE);
    if (c->mode != SIMPLE)
        assert_int_equal(holes, 2);
    holes = 0;
    say_request(c, NBD_CMD_READ, 0, 4, 65536, 131072);
    assert_int_equal(hear_read(c, 4, 65536, b, 131072, NULL, &holes), 0);
    if (c->mode != SIMPLE)
        assert_int_equal(holes, 1);
    free(b);
}

/* "the server is also permitted to reject large read requests with NBD_EOVERFLOW" */
TEST(oversize_read)
{
    uint8_t b[1];
    other(c, "big");
    say_request(c, NBD_CMD_READ, 0, 4, 0, NBD_MAX_PAYLOAD + 1);
    assert_int_equal(hear_read(c, 4, 0, b, 0, NULL, NULL),
                     c->mode == SIMPLE ? NBD_EINVAL : NBD_EOVERFLOW);
    expect_alive(c);
}

/* ---- BLOCK_STATUS ---- */

struct extent {
    uint64_t len, flags;
};

static unsigned do_status(struct client *c, uint16_t flags, uint64_t off, uint64_t len,
                          struct extent *x, unsigned max)
{
    struct chunk_head h;
    bool ext = c->mode == EXTENDED;
    say_request(c, NBD_CMD_BLOCK_STATUS, flags, 6, off, len);
    hear_chunk(c, &h);
    assert_int_equal(h.type, ext ? NBD_REPLY_TYPE_BLOCK_STATUS_EXT : NBD_REPLY_TYPE_BLOCK_STATUS);
    assert_int_equal(h.flags, NBD_REPLY_FLAG_DONE);
    assert_int_equal(hear32(c), NBD_CONTEXT_ALLOCATION);
    unsigned n = (unsigned)(ext ? (h.len - 8) / 16 : (h.len - 4) / 8);
    assert_int_equal(h.len, ext ? 8 + 16 * n : 4 + 8 * n);
    if (ext)
        assert_int_equal(hear32(c), n); /* "The descriptor count field MUST correspond" */
    assert_in_range(n, 1, max);
    for (unsigned i = 0; i < n; i++) {
        x[i].len = ext ? hear64(c) : hear32(c);
        x[i].flags = ext ? hear64(c) : hear32(c);
        assert_true(x[i].len > 0);
    }
    return n;
}

TEST(block_status)
{
    struct extent x[600];
    if (c->mode == SIMPLE) {
        assert_int_equal(do_cmd(c, NBD_CMD_BLOCK_STATUS, 0, 0, 512), NBD_EINVAL);
        return;
    }
    memset(plain->sector + 128, SECTOR_ZERO, 256);
    assert_int_equal(do_status(c, 0, 0, SIZE, x, 3), 3);
    assert_true(x[0].len == 65536 && x[0].flags == 0);
    assert_true(x[1].len == 131072 && x[1].flags & NBD_STATE_ZERO);
    assert_true(x[2].len == SIZE - 196608 && x[2].flags == 0);
    /* REQ_ONE: "exactly one descriptor ... MUST NOT exceed the length of the request" */
    assert_int_equal(do_status(c, NBD_CMD_FLAG_REQ_ONE, 0, SIZE, x, 1), 1);
    assert_true(x[0].len == 65536);
    assert_int_equal(do_status(c, NBD_CMD_FLAG_REQ_ONE, 70000, 1000, x, 1), 1);
    assert_true(x[0].len == 1000 && x[0].flags & NBD_STATE_ZERO);
    assert_int_equal(do_cmd(c, NBD_CMD_BLOCK_STATUS, 0, 0, 0), NBD_EINVAL);
    /* More extents than a reply holds: a part, and always some progress. */
    for (unsigned i = 0; i < SIZE / 512; i++)
        plain->sector[i] = i & 1 ? SECTOR_ZERO : SECTOR_DATA;
    unsigned n = do_status(c, 0, 0, SIZE, x, 600);
    assert_int_equal(n, c->mode == EXTENDED ? 255 : 511);
    for (unsigned i = 0; i < n; i++)
        assert_true(x[i].len == 512 && !!(x[i].flags & NBD_STATE_ZERO) == (i & 1));
}

/* ---- ends ---- */

/* "The server MUST handle all outstanding requests ... and close"; no reply to DISC */
TEST(disc)
{
    uint8_t b[512] = {9};
    memdisk_hold(plain, MEM_WRITE);
    say_write(c, 0, 8, 0, b, sizeof(b));
    say_request(c, NBD_CMD_DISC, 0, 9, 0, 0);
    hear_nothing(c);
    memdisk_release(plain);
    assert_int_equal(hear_status(c, 8, 0), 0);
    hear_end(c);
    assert_int_equal(plain->data[0], 9);
}

/* Bad magic; the other kind of header counts as such. */
TEST(bad_magic)
{
    enum mode m = c->mode, odd = m == EXTENDED ? SIMPLE : EXTENDED;
    c->mode = odd;
    say_request(c, NBD_CMD_FLUSH, 0, 1, 0, 0);
    say32(c, 0);
    hear_end(c);
    c->mode = m;
    other(c, "plain");
    for (int i = 0; i < 8; i++)
        say32(c, NBD_SIMPLE_REPLY_MAGIC);
    hear_end(c);
}

/* "SHOULD initiate hard disconnect if ... larger than the maximum payload length" */
TEST(oversize_write)
{
    struct client witness;
    client_open(&witness, "plain", c->mode);
    uint16_t flags = c->mode == EXTENDED ? NBD_CMD_FLAG_PAYLOAD_LEN : 0;
    say_request(c, NBD_CMD_WRITE, flags, 1, 0, NBD_MAX_PAYLOAD + 1);
    hear_end(c);
    expect_alive(&witness);
    client_close(&witness);
}

/* ---- extended headers ---- */

/* WRITE "MUST use the flag"; on others: "consume length bytes of payload", EINVAL. */
TEST(payload_len)
{
    uint8_t b[5000] = {0};
    if (c->mode != EXTENDED)
        return;
    assert_int_equal(do_cmd(c, NBD_CMD_WRITE, 0, 0, 512), NBD_EINVAL);
    static const uint16_t cmds[] = {NBD_CMD_READ,  NBD_CMD_FLUSH,        NBD_CMD_TRIM,
                                    NBD_CMD_CACHE, NBD_CMD_WRITE_ZEROES, 99};
    for (unsigned i = 0; i < ARRAY_LEN(cmds); i++) {
        say_request(c, cmds[i], NBD_CMD_FLAG_PAYLOAD_LEN, 42, 0, sizeof(b));
        say(c, b, sizeof(b));
        assert_int_equal(hear_status(c, 42, 0), NBD_EINVAL);
    }
    expect_alive(c);
    assert_int_equal(plain->count[MEM_WRITE], 0);
}

static uint32_t status_payload(struct client *c, uint64_t len, unsigned n, const uint32_t *ids)
{
    struct chunk_head h;
    say_request(c, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_PAYLOAD_LEN, 6, 4096, 8 + 4 * n);
    say64(c, len);
    for (unsigned i = 0; i < n; i++)
        say32(c, ids[i]);
    hear_chunk(c, &h);
    if (h.type != NBD_REPLY_TYPE_BLOCK_STATUS_EXT) {
        uint32_t error = hear32(c);
        hear_skip(c, h.len - 4);
        return error;
    }
    assert_int_equal(h.len, 8 + 16);
    assert_int_equal(hear32(c), NBD_CONTEXT_ALLOCATION);
    assert_int_equal(hear32(c), 1);
    assert_true(hear64(c) <= len);
    hear64(c);
    return 0;
}

/* "If the server ... detects duplicate or unknown metacontext ids in the client's payload, the
 * server MUST gracefully consume the client's payload before failing with EINVAL" */
TEST(status_payload)
{
    static const uint32_t good[] = {NBD_CONTEXT_ALLOCATION, NBD_CONTEXT_ALLOCATION}, bad[] = {77};
    uint8_t odd[9] = {0};
    if (c->mode != EXTENDED)
        return;
    assert_int_equal(status_payload(c, 512, 1, good), 0);
    assert_int_equal(status_payload(c, 512, 2, good), NBD_EINVAL);
    assert_int_equal(status_payload(c, 512, 1, bad), NBD_EINVAL);
    assert_int_equal(status_payload(c, 512, 0, NULL), NBD_EINVAL);
    assert_int_equal(status_payload(c, SIZE, 1, good), NBD_EINVAL); /* beyond the end */
    assert_int_equal(status_payload(c, 0, 1, good), NBD_EINVAL);
    say_request(c, NBD_CMD_BLOCK_STATUS, NBD_CMD_FLAG_PAYLOAD_LEN, 6, 0, sizeof(odd));
    say(c, odd, sizeof(odd));
    assert_int_equal(hear_status(c, 6, 0), NBD_EINVAL);
    expect_alive(c);
}

/* Effect lengths have 64 bits. */
TEST(long_lengths)
{
    if (c->mode != EXTENDED)
        return;
    assert_int_equal(do_cmd(c, NBD_CMD_WRITE_ZEROES, 0, 0, (1ull << 32) + 512), NBD_ENOSPC);
    assert_int_equal(do_cmd(c, NBD_CMD_TRIM, 0, 0, (1ull << 32) + 512), NBD_EINVAL);
    assert_int_equal(do_cmd(c, NBD_CMD_BLOCK_STATUS, 0, 0, 1ull << 40), NBD_EINVAL);
    assert_int_equal(plain->data[0], pattern(0));
}

static void co_clean(void *arg)
{
    (void)arg;
    nbd_test_unexport("plain", "plain");
    nbd_test_unexport("big", "big");
    nbd_test_unexport("b", "blocks");
    nbd_test_unexport("ro", "fixed");
    co_sleep_ns(20000000);
    assert_int_equal(duplex_ends, 0);
}

static void test_clean(void **state)
{
    (void)state;
    test_co_run(co_clean, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flags),
        cmocka_unit_test(test_read_write),
        cmocka_unit_test(test_cookies),
        cmocka_unit_test(test_long_requests),
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_read_only),
        cmocka_unit_test(test_unknown),
        cmocka_unit_test(test_alignment),
        cmocka_unit_test(test_flush),
        cmocka_unit_test(test_fua),
        cmocka_unit_test(test_write_zeroes),
        cmocka_unit_test(test_trim_cache),
        cmocka_unit_test(test_io_errors),
        cmocka_unit_test(test_late_read_error),
        cmocka_unit_test(test_df),
        cmocka_unit_test(test_sparse_read),
        cmocka_unit_test(test_oversize_read),
        cmocka_unit_test(test_block_status),
        cmocka_unit_test(test_disc),
        cmocka_unit_test(test_bad_magic),
        cmocka_unit_test(test_oversize_write),
        cmocka_unit_test(test_payload_len),
        cmocka_unit_test(test_status_payload),
        cmocka_unit_test(test_long_lengths),
        cmocka_unit_test(test_clean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
