/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Two loops read one qcow2 image whose L2 cache is far too small: slices are looked up on one loop
 * while the other replaces them. Meant for TSan; the content is checked in any build.
 */
#include "tests/unit/support.h"
#include "tests/unit/support_loops.h"
#include "tests/unit/support_qcow2.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define READERS 6
#define READS   1500u

static struct image image;

/* A file without any state that loops could quarrel over. */
static int co_flat_open(struct node *n, const void *opts, struct error *err)
{
    (void)opts, (void)err;
    n->size = image.file_size;
    return 0;
}

static int co_flat_preadv(struct node *n, uint64_t off, struct iov v, unsigned flags)
{
    (void)n, (void)flags;
    if (off & 4096)
        co_reschedule();
    iov_copy_in(v, 0, image.file + off, v.len);
    return 0;
}

static const struct blk_driver test_flat = {
    .name = "flat", .protocol = true, .co_open = co_flat_open, .co_preadv = co_flat_preadv};
REGISTER(blk_driver, test_flat);

struct reader {
    struct co_start start;
    unsigned loop;
    uint32_t random;
    struct origin *origin;
    struct co_join *join;
};

static void co_one_read(struct reader *r)
{
    uint8_t buf[1500];
    r->random = r->random * 1664525 + 1013904223;
    uint64_t off = (r->random >> 8) % (image.size - sizeof(buf));
    size_t len = r->random & 0x80 ? 300 : sizeof(buf);
    co_origin_enter(r->origin);
    assert_int_equal(co_blk_pread(r->origin->root, off, buf, len), 0);
    assert_int_equal(loop_id(), r->loop);
    assert_memory_equal(buf, image.model + off, len);
    origin_leave(r->origin);
}

static void co_reader(void *arg)
{
    struct reader *r = arg;
    co_hop(r->loop);
    for (unsigned i = 0; i < READS; i++) {
        co_one_read(r);
        if (i % 16 == 0)
            co_reschedule();
    }
    co_hop(0);
    co_join_done(r->join, 0);
}

static void co_body(void *arg)
{
    struct reader r[READERS];
    struct co_join join;
    (void)arg;
    image = (struct image){.version = 3, .cluster_bits = 9, .size = 400000};
    image_make(&image, IMAGE_RANDOM);
    struct test_root t = test_root_open(
        test_open("driver=qcow2,node-name=q,read-only=on,file.driver=flat,l2-cache-size=512"));
    co_join_init(&join);
    for (unsigned i = 0; i < READERS; i++) {
        r[i] = (struct reader){.loop = i % 2, .random = i, .origin = t.origin, .join = &join};
        co_join_add(&join);
        co_start(&r[i].start, co_reader, &r[i]);
    }
    assert_int_equal(co_join_wait(&join), 0);
    test_root_close(&t);
    image_free(&image);
    loop_stop();
}

static void test_two_loops(void **state)
{
    static struct co_start start;
    (void)state;
    co_start(&start, co_body, NULL);
    alarm(120);
    loop_run();
    alarm(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_loops),
    };
    return cmocka_run_group_tests(tests, two_loops_start, two_loops_stop);
}
