/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * NBD with as few stacks as its connections are promised, all pools at their minimum, and all but
 * one of the connections in the hands of clients that read nothing: the one goes on.
 */
#include "tests/unit/support_nbd.h"

#include <stdlib.h>
#include <string.h>

#include "kernel/kernel.h"
#include "net/nbd/nbd.h"

#define SIZE   (8u << 20)
#define STACKS 31 /* 27 for ordinary starts: 6 connections' 18, 8 for everybody, 1 to spare */
#define HOGS   (TEST_MAX_CONNECTIONS - 1)
#define MANY   60

static struct memdisk *disk;

static void co_setup(void)
{
    if (disk)
        return;
    disk = memdisk_of(nbd_test_export("disk", "size=8M,fua=on", "id=d,name=d,writable=on"));
    fill_pattern(disk->data, 0, SIZE);
    memset(disk->sector, SECTOR_DATA, SIZE / MEM_SECTOR);
}

#define TEST(name)                      \
    static void co_##name(void);        \
    static void body_##name(void *arg)  \
    {                                   \
        (void)arg;                      \
        co_setup();                     \
        co_##name();                    \
        co_expect_all_back();           \
    }                                   \
    static void test_##name(void **s)   \
    {                                   \
        (void)s;                        \
        test_co_run(body_##name, NULL); \
    }                                   \
    static void co_##name(void)

static void co_expect_all_back(void)
{
    for (int i = 0; duplex_ends && i < 2000; i++)
        co_sleep_ns(1000000);
    assert_int_equal(duplex_ends, 0);
    co_sleep_ns(1000000);
    assert_int_equal(co_stacks_free(), co_stacks_total() - 1); /* this one */
    assert_int_equal(nbd_spare_stacks, co_stacks_total() / 16);
}

/* One by one, and all at once. */
static void co_verified_io(struct client *c)
{
    uint8_t b[4096];
    bool seen[MANY] = {0};
    for (uint64_t i = 0; i < 20; i++) {
        assert_int_equal(do_read(c, i * 5000, b, sizeof(b)), 0);
        assert_memory_equal(b, disk->data + i * 5000, sizeof(b));
    }
    for (uint64_t i = 0; i < MANY; i++)
        say_request(c, NBD_CMD_READ, 0, i, i * 7000, sizeof(b));
    for (unsigned i = 0; i < MANY; i++) {
        uint64_t cookie;
        assert_int_equal(hear32(c), NBD_SIMPLE_REPLY_MAGIC);
        assert_int_equal(hear32(c), 0);
        hear(c, &cookie, sizeof(cookie));
        assert_true(cookie < MANY && !seen[cookie]);
        seen[cookie] = true;
        hear(c, b, sizeof(b));
        assert_memory_equal(b, disk->data + cookie * 7000, sizeof(b));
    }
    assert_int_equal(do_cmd(c, NBD_CMD_FLUSH, 0, 0, 0), 0);
}

static void say_hog(struct client *c)
{
    duplex_stall(c->server, true);
    for (uint64_t i = 0; i < 8; i++) /* first, while there are buffers */
        say_request(c, NBD_CMD_READ, 0, 100 + i, 0, SIZE);
    for (uint64_t i = 0; i < 40; i++)
        say_request(c, NBD_CMD_READ, 0, i, i * 4096, 4096);
    for (uint64_t i = 0; i < 20; i++)
        say_request(c, NBD_CMD_FLUSH, 0, 200 + i, 0, 0);
}

/* Clients that read nothing, and idle ones; when they go on, nothing was lost. */
TEST(hogs)
{
    struct client hog[HOGS], c;
    uint8_t *b = malloc(SIZE);
    client_open(&c, "d", SIMPLE);
    for (int i = 0; i < HOGS; i++)
        client_open(&hog[i], "d", i ? SIMPLE : STRUCTURED);
    co_verified_io(&c); /* beside idle ones */
    for (int i = 0; i < HOGS; i++)
        say_hog(&hog[i]);
    co_sleep_ns(50000000);
    co_verified_io(&c);
    duplex_stall(hog[1].server, false);
    for (int i = 0; i < 68; i++) {
        uint64_t cookie;
        assert_int_equal(hear32(&hog[1]), NBD_SIMPLE_REPLY_MAGIC);
        assert_int_equal(hear32(&hog[1]), 0);
        hear(&hog[1], &cookie, sizeof(cookie));
        uint64_t n = cookie >= 200 ? 0 : cookie >= 100 ? SIZE : 4096;
        if (n)
            hear(&hog[1], b, n);
        assert_memory_equal(b, disk->data + (n == 4096 ? cookie * 4096 : 0), n);
    }
    free(b);
    co_verified_io(&c);
    for (int i = 0; i < HOGS; i++) {
        stream_abort(hog[i].s);
        client_close(&hog[i]);
    }
    client_close(&c);
}

/* Long reads of one client: as many at a time as there are stacks to spare, all answered. */
TEST(long_reads_in_line)
{
    struct client c;
    uint8_t *b = malloc(SIZE);
    client_open(&c, "d", STRUCTURED);
    for (uint64_t i = 0; i < 20; i++)
        say_request(&c, NBD_CMD_READ, NBD_CMD_FLAG_DF, i, 0, 1u << 20);
    for (unsigned i = 0, done = 0; done < 20; i++) {
        struct chunk_head h;
        hear_chunk(&c, &h);
        assert_false(h.type & 0x8000);
        hear(&c, b, h.len);
        done += h.flags & NBD_REPLY_FLAG_DONE;
        assert_true(i < 100);
    }
    free(b);
    client_close(&c);
}

/* All places are taken by clients that say nothing: the oldest gives way. */
TEST(silent_handshakes)
{
    struct client silent[MANY], c;
    for (int i = 0; i < TEST_MAX_CONNECTIONS; i++)
        client_connect(&silent[i], NULL);
    co_sleep_ns(300000000);
    uint64_t begin = board_clock_ns();
    client_open(&c, "d", SIMPLE);
    assert_true(board_clock_ns() - begin < 1000000000);
    co_verified_io(&c);
    for (int i = 0; i < TEST_MAX_CONNECTIONS; i++) {
        if (!i)
            hear_end(&silent[i]);
        else
            hear_nothing(&silent[i]);
        client_close(&silent[i]);
    }
    client_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hogs),
        cmocka_unit_test(test_long_reads_in_line),
        cmocka_unit_test(test_silent_handshakes),
    };
    test_start_with(STACKS, TEST_BIG_STACKS);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
