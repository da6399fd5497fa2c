/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * NBD under pressure: many requests, many clients, slow ones and such that vanish, small segments,
 * drains, exports that close. Whatever happens, every pool is whole again afterwards.
 */
#include "tests/unit/support_nbd.h"

#include <stdlib.h>
#include <string.h>

#include "kernel/kernel.h"
#include "net/nbd/nbd.h"

#define SIZE      (8u << 20)
#define SLOW      4
#define SECONDS   1000000000ull
#define STACKS    300
#define MAX_POOLS 64

static struct memdisk *disk;

static void co_setup(void)
{
    if (!disk)
        disk = memdisk_of(nbd_test_export("disk", "size=8M,fua=on,write-zeroes=on,discards=on",
                                          "id=d,name=d,writable=on"));
    fill_pattern(disk->data, 0, SIZE);
    memset(disk->sector, SECTOR_DATA, SIZE / MEM_SECTOR);
    memdisk_forget(disk);
}

/* ---- accounts ---- */

static unsigned before[MAX_POOLS];

static void note_pools(void)
{
    unsigned i = 0;
    registry_for_each (pool, p)
        before[i++] = (*p)->free;
    assert_true(i <= MAX_POOLS);
}

/* Connections end by themselves a little after their clients. */
static void co_expect_all_back(void)
{
    for (int i = 0; duplex_ends && i < 2000; i++)
        co_sleep_ns(1000000);
    assert_int_equal(duplex_ends, 0);
    unsigned i = 0;
    registry_for_each (pool, p) {
        if ((*p)->free != before[i])
            fail_msg("pool %s: %u free, %u before", (*p)->name, (*p)->free, before[i]);
        i++;
    }
}

#define TEST(name)                      \
    static void co_##name(void);        \
    static void body_##name(void *arg)  \
    {                                   \
        (void)arg;                      \
        co_setup();                     \
        note_pools();                   \
        co_##name();                    \
        co_expect_all_back();           \
    }                                   \
    static void test_##name(void **s)   \
    {                                   \
        (void)s;                        \
        test_co_run(body_##name, NULL); \
    }                                   \
    static void co_##name(void)

/* ---- in flight ---- */

/* 128 requests of a client are under way; more are not read before one of them ends. */
TEST(in_flight)
{
    struct client c;
    client_open(&c, "d", STRUCTURED);
    memdisk_hold(disk, MEM_DISCARD);
    for (uint64_t i = 0; i < 200; i++)
        say_request(&c, NBD_CMD_TRIM, 0, i, i * 512, 512);
    hear_nothing(&c);
    assert_int_equal(disk->inflight, NBD_MAX_INFLIGHT);
    memdisk_release(disk);
    bool seen[200] = {0};
    for (int i = 0; i < 200; i++) {
        uint64_t cookie;
        assert_int_equal(hear32(&c), NBD_SIMPLE_REPLY_MAGIC);
        assert_int_equal(hear32(&c), 0);
        hear(&c, &cookie, sizeof(cookie));
        assert_true(cookie < 200 && !seen[cookie]);
        seen[cookie] = true;
    }
    assert_int_equal(disk->most_inflight, NBD_MAX_INFLIGHT);
    client_close(&c);
}

/* ---- turns to send, and memory that is short ---- */

extern struct pool buf_pool_4k, buf_pool_32k, buf_pool_256k;

/* Long reads of every kind and short ones among them: each reply whole, in whatever order. */
static void co_read_mixed(struct client *c, unsigned n)
{
    static const size_t lengths[] = {300000, 5000, 512, 2u << 20};
    uint8_t *b = malloc(2u << 20);
    for (uint64_t i = 0; i < n; i++) {
        uint16_t df = c->mode != SIMPLE && i & 4 ? NBD_CMD_FLAG_DF : 0;
        say_request(c, NBD_CMD_READ, df, i, i * 1000, lengths[i % 4]);
    }
    if (c->mode == SIMPLE)
        for (unsigned i = 0; i < n; i++) {
            uint64_t cookie;
            assert_int_equal(hear32(c), NBD_SIMPLE_REPLY_MAGIC);
            assert_int_equal(hear32(c), 0);
            hear(c, &cookie, sizeof(cookie));
            assert_true(cookie < n);
            hear(c, b, lengths[cookie % 4]);
            assert_memory_equal(b, disk->data + cookie * 1000, lengths[cookie % 4]);
        }
    else
        for (unsigned done = 0; done < n;) {
            struct chunk_head h;
            hear_chunk(c, &h);
            done += h.flags & NBD_REPLY_FLAG_DONE;
            assert_true(h.cookie < n && !(h.type & 0x8000));
            if (h.type == NBD_REPLY_TYPE_NONE)
                continue;
            uint64_t at = hear64(c), len = h.len - 8;
            assert_true(at >= h.cookie * 1000 &&
                        at + len <= h.cookie * 1000 + lengths[h.cookie % 4]);
            hear(c, b, len);
            assert_memory_equal(b, disk->data + at, len);
        }
    free(b);
}

TEST(mixed_reads)
{
    for (enum mode m = SIMPLE; m <= EXTENDED; m++) {
        struct client c;
        client_open(&c, "d", m);
        co_read_mixed(&c, 40);
        client_close(&c);
    }
}

/* Nothing left but what each connection has of its own: slower, and right. */
TEST(no_memory_but_its_own)
{
    struct pool *const pools[] = {&buf_pool_4k, &buf_pool_32k, &buf_pool_256k, &nbd_request_pool,
                                  &nbd_piece_pool};
    struct client c[3];
    void *taken[ARRAY_LEN(pools)][512];
    unsigned n[ARRAY_LEN(pools)] = {0};
    for (enum mode m = SIMPLE; m <= EXTENDED; m++)
        client_open(&c[m], "d", m);
    for (unsigned i = 0; i < ARRAY_LEN(pools); i++)
        while ((taken[i][n[i]] = pool_try_get(pools[i], NULL)))
            assert_true(++n[i] < 512);
    for (enum mode m = SIMPLE; m <= EXTENDED; m++) {
        uint8_t *b = malloc(300000);
        co_read_mixed(&c[m], 8);
        fill_pattern(b, 9, 300000);
        assert_int_equal(do_write(&c[m], 0, 4 << 20, b, 300000), 0);
        assert_memory_equal(disk->data + (4 << 20), b, 300000);
        free(b);
    }
    for (unsigned i = 0; i < ARRAY_LEN(pools); i++)
        while (n[i])
            pool_put(pools[i], NULL, taken[i][--n[i]]);
    for (enum mode m = SIMPLE; m <= EXTENDED; m++)
        client_close(&c[m]);
}

/* ---- random requests in small portions, against a model ---- */

static void co_random_requests(const struct duplex_options *o, enum mode mode, unsigned n)
{
    uint8_t *model = malloc(SIZE), *b = malloc(1u << 20);
    struct client c;
    memcpy(model, disk->data, SIZE);
    client_hello(&c, o);
    client_go(&c, "d", mode, mode != SIMPLE, false);
    for (unsigned i = 0; i < n; i++) {
        size_t len = 1 + test_random() % (i % 8 ? 5000 : 500000);
        uint64_t off = test_random() % (SIZE - len);
        uint16_t df = mode != SIMPLE && test_random() % 2 ? NBD_CMD_FLAG_DF : 0;
        switch (test_random() % 4) {
        case 0:
            for (size_t j = 0; j < len; j++)
                b[j] = (uint8_t)test_random();
            assert_int_equal(do_write(&c, 0, off, b, len), 0);
            memcpy(model + off, b, len);
            break;
        case 1:
            assert_int_equal(do_cmd(&c, NBD_CMD_WRITE_ZEROES, 0, off, len), 0);
            memset(model + off, 0, len);
            break;
        default:
            say_request(&c, NBD_CMD_READ, df, i, off, len);
            assert_int_equal(hear_read(&c, i, off, b, len, NULL, NULL), 0);
            assert_memory_equal(b, model + off, len);
        }
    }
    assert_memory_equal(disk->data, model, SIZE);
    client_close(&c);
    free(model);
    free(b);
}

TEST(small_portions)
{
    static const struct duplex_options options[] = {
        {.segment = 1, .window = 64u << 10},
        {.segment = 7, .queue = 1},
        {.segment = 1460, .window = 70000, .queue = 1000},
        {.segment = 100000, .window = 256u << 10},
    };
    for (unsigned i = 0; i < ARRAY_LEN(options); i++)
        for (enum mode m = SIMPLE; m <= EXTENDED; m++) {
            co_setup();
            co_random_requests(&options[i], m, i ? 60 : 20);
        }
}

/* ---- slow clients ---- */

/* Everything that a client can leave lying about: reads of all kinds that it does not take, writes
 * whose payload does not come. */
static void say_much(struct client *c)
{
    duplex_stall(c->server, true);
    for (uint64_t i = 0; i < 40; i++)
        say_request(c, NBD_CMD_READ, 0, i, i * 4096, 4096);
    for (uint64_t i = 0; i < 10; i++)
        say_request(c, NBD_CMD_READ, i & 1 && c->mode != SIMPLE ? NBD_CMD_FLAG_DF : 0, i, 0, SIZE);
    if (c->mode != SIMPLE)
        for (uint64_t i = 0; i < 20; i++)
            say_request(c, NBD_CMD_BLOCK_STATUS, 0, i, 0, SIZE);
    for (uint64_t i = 0; i < 20; i++)
        say_request(c, NBD_CMD_FLUSH, 0, i, 0, 0);
    say_request(c, NBD_CMD_WRITE, c->mode == EXTENDED ? NBD_CMD_FLAG_PAYLOAD_LEN : 0, 1, 0,
                1 << 20);
    say(c, disk->data, 1000);
}

static void co_quick_client(void)
{
    uint8_t *b = malloc(1u << 20);
    struct client c;
    uint64_t begin = board_clock_ns();
    client_open(&c, "d", STRUCTURED);
    for (unsigned i = 0; i < 50; i++) {
        size_t n = i % 10 ? 4096 : 1u << 20;
        assert_int_equal(do_read(&c, i * 4096, b, n), 0);
        assert_memory_equal(b, disk->data + i * 4096, n);
        assert_int_equal(do_write(&c, 0, i * 4096, b, n), 0);
        assert_int_equal(do_cmd(&c, NBD_CMD_FLUSH, 0, 0, 0), 0);
    }
    assert_true(board_clock_ns() - begin < 10 * SECONDS);
    client_close(&c);
    free(b);
}

TEST(slow_clients)
{
    struct client slow[SLOW];
    uint8_t *b = malloc(SIZE);
    for (int i = 0; i < SLOW; i++) {
        client_open(&slow[i], "d", (enum mode)(i % 3));
        say_much(&slow[i]);
    }
    co_sleep_ns(50000000);
    co_quick_client();
    /* And when they go on, nothing was lost. */
    duplex_stall(slow[0].server, false);
    for (uint64_t i = 0; i < 40; i++) {
        assert_int_equal(hear_read(&slow[0], i, i * 4096, b, 4096, NULL, NULL), 0);
        assert_memory_equal(b, disk->data + i * 4096, 4096);
    }
    for (int i = 0; i < SLOW; i++)
        stream_abort(slow[i].s);
    for (int i = 0; i < SLOW; i++)
        client_close(&slow[i]);
    free(b);
}

/* ---- clients that vanish ---- */

/* "A disconnected client's requests run to their end." */
TEST(vanish_in_flight)
{
    struct client c;
    uint8_t b[512] = {5};
    client_open(&c, "d", EXTENDED);
    memdisk_hold(disk, MEM_WRITE);
    memdisk_hold(disk, MEM_READ);
    for (uint64_t i = 0; i < 15; i++) {
        say_write(&c, 0, i, i * 512, b, sizeof(b));
        say_request(&c, NBD_CMD_READ, 0, i, 1 << 20, i & 1 ? 512 : 1 << 20);
    }
    hear_nothing(&c);
    stream_abort(c.s);
    client_close(&c);
    co_sleep_ns(20000000);
    assert_true(disk->inflight >= 15);
    memdisk_release(disk);
    co_sleep_ns(20000000);
    for (int i = 0; i < 15; i++)
        assert_int_equal(disk->data[i * 512], 5);
}

/* A whole session, cut after every so many bytes: closed in order, or reset. */
static void say_session(struct client *c)
{
    uint8_t b[600] = {1};
    say32(c, 3);
    say_option(c, NBD_OPT_LIST, NULL, 0);
    say_option(c, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
    say_meta(c, NBD_OPT_SET_META_CONTEXT, "d", 2, "base:allocation", "x:y");
    say_info(c, NBD_OPT_GO, "d", NULL);
    c->mode = STRUCTURED;
    say_write(c, NBD_CMD_FLAG_FUA, 1, 100, b, sizeof(b));
    say_request(c, NBD_CMD_READ, 0, 2, 0, 4096);
    say_request(c, NBD_CMD_READ, 0, 2, 0, 1 << 20);
    say_request(c, NBD_CMD_BLOCK_STATUS, 0, 3, 0, SIZE);
    say_request(c, NBD_CMD_WRITE_ZEROES, 0, 4, 0, 1 << 20);
    say_request(c, NBD_CMD_DISC, 0, 5, 0, 0);
}

TEST(cut_sessions)
{
    struct stream *whole[2];
    static uint8_t bytes[4096];
    duplex_open(whole, NULL);
    struct client c = {.s = whole[0]};
    say_session(&c);
    co_sleep_ns(1000000);
    size_t n = whole[1]->ops->available(whole[1]);
    assert_in_range(n, 800, sizeof(bytes));
    assert_int_equal(co_stream_read(whole[1], bytes, n, STREAM_FOREVER), 0);
    co_stream_close(whole[0]);
    co_stream_close(whole[1]);
    for (size_t cut = 0; cut <= n; cut += cut < 150 || cut > 760 ? 1 : 13)
        for (int how = 0; how < 2; how++) {
            client_connect(&c, NULL);
            say(&c, bytes, cut);
            if (cut % 3)
                co_reschedule();
            if (how)
                stream_abort(c.s);
            client_close(&c);
            while (duplex_ends)
                co_sleep_ns(100000);
        }
}

/* ---- drains, and exports that close ---- */

TEST(drain)
{
    struct client c;
    uint8_t b[4096];
    client_open(&c, "d", SIMPLE);
    co_drain_begin(disk->node);
    say_request(&c, NBD_CMD_READ, 0, 1, 0, sizeof(b));
    say_request(&c, NBD_CMD_FLUSH, 0, 2, 0, 0);
    unsigned stacks = co_stacks_free();
    hear_nothing(&c);
    assert_int_equal(disk->count[MEM_READ], 0);
    assert_int_equal(co_stacks_free(), stacks); /* they wait without coroutines of their own */
    drain_end(disk->node);
    assert_int_equal(hear_read(&c, 1, 0, b, sizeof(b), NULL, NULL), 0);
    assert_int_equal(hear_status(&c, 2, 0), 0);
    /* A client that does not read, or sends half a payload, holds up no drain. */
    say_much(&c);
    co_sleep_ns(20000000);
    uint64_t begin = board_clock_ns();
    co_drain_begin(disk->node);
    drain_end(disk->node);
    assert_true(board_clock_ns() - begin < 2 * SECONDS);
    stream_abort(c.s);
    client_close(&c);
}

static void co_release_later(void *arg)
{
    (void)arg;
    co_sleep_ns(50000000);
    memdisk_release(disk);
}

struct late {
    struct client *c;
    uint32_t error;
    bool done;
};

static void co_ask_late(void *arg)
{
    struct late *l = arg;
    co_sleep_ns(20000000);
    l->error = do_cmd(l->c, NBD_CMD_FLUSH, 0, 0, 0);
    l->done = true;
}

/* What is under way is answered, what comes then gets ESHUTDOWN, and the connection ends. */
TEST(export_closes)
{
    static struct co_start start[2];
    struct client c, idle;
    uint8_t b[4096];
    struct late late = {.c = &c};
    client_open(&c, "d", STRUCTURED);
    client_open(&idle, "d", SIMPLE);
    memdisk_hold(disk, MEM_READ);
    say_request(&c, NBD_CMD_READ, 0, 1, 0, sizeof(b));
    hear_nothing(&c);
    co_start(&start[0], co_release_later, NULL);
    co_start(&start[1], co_ask_late, &late);
    struct export *e = export_find("d");
    struct node *n = disk->node;
    co_export_del(e, board_clock_ns() + 5 * SECONDS);
    assert_true(late.done);
    assert_int_equal(late.error, NBD_ESHUTDOWN);
    assert_int_equal(hear_read(&c, 1, 0, b, sizeof(b), NULL, NULL), 0);
    hear_end(&c);
    hear_end(&idle);
    client_close(&c);
    client_close(&idle);
    co_node_unref(n);
    disk = NULL;
}

/* A client that does not take its replies: cut at the deadline. */
TEST(export_closes_on_slow)
{
    struct client c;
    client_open(&c, "d", STRUCTURED);
    say_much(&c);
    co_sleep_ns(20000000);
    uint64_t begin = board_clock_ns();
    struct node *n = disk->node;
    co_export_del(export_find("d"), begin + SECONDS / 2);
    assert_in_range(board_clock_ns() - begin, SECONDS / 2 - 1000000, 4 * SECONDS);
    client_close(&c);
    co_node_unref(n);
    disk = NULL;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_flight),
        cmocka_unit_test(test_mixed_reads),
        cmocka_unit_test(test_no_memory_but_its_own),
        cmocka_unit_test(test_small_portions),
        cmocka_unit_test(test_slow_clients),
        cmocka_unit_test(test_vanish_in_flight),
        cmocka_unit_test(test_cut_sessions),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_export_closes),
        cmocka_unit_test(test_export_closes_on_slow),
    };
    test_start_with(STACKS, TEST_BIG_STACKS);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
